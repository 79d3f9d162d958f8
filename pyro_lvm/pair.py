"""What a pair is: a Pyro model, an amortized guide beside it, and the parameters that belong to the two alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from pyro.params.param_store import normalize_param_name
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_lvm.errors import ArtifactError, PairError
from pyro_lvm.mixture_posterior import MixturePosterior

Half = Callable[..., Any]


@runtime_checkable
class HasLogEvidence(Protocol):
    """A model that knows its exact evidence."""

    def log_evidence(self, x: Tensor) -> Tensor:
        """Exact log p(x) in nats, shape (rows,)."""


@runtime_checkable
class HasExactPosterior(Protocol):
    """A model that knows its exact posterior."""

    def exact_posterior(self, x: Tensor) -> Distribution | MixturePosterior:
        """The distribution p(z | x), batch shape (rows,), or p(t, z | x)."""


@runtime_checkable
class HasMaximumLikelihood(Protocol):
    """A model whose family has a maximum of the likelihood that can be found."""

    def maximum_likelihood(self, x: Tensor) -> HasLogEvidence:
        """A model of the same family at the maximum of the likelihood of ``x``; DataError where it can't be had."""


@runtime_checkable
class HasPlugInEvidence(Protocol):
    """A model with latents that all rows share, which knows its evidence given these."""

    def plug_in_evidence(self, x: Tensor, shared: Mapping[str, Tensor]) -> Tensor:
        """Exact log p(x | shared latents) in nats, shape (rows,)."""


@runtime_checkable
class SharesLatents(Protocol):
    """A guide with latents that all rows share."""

    def shared_means(self) -> Mapping[str, Tensor]:
        """Posterior mean of each of them, by name."""


@runtime_checkable
class Decodes(Protocol):
    """A model that gives the distribution of x for a given z."""

    def decode(self, z: Tensor) -> Distribution:
        """The distribution p(x | z), batch shape (rows,)."""


@runtime_checkable
class Encodes(Protocol):
    """A guide that gives the distribution of z for a given x."""

    def encode(self, x: Tensor) -> Distribution | MixturePosterior:
        """The distribution q(z | x), batch shape (rows,), or q(t, z | x)."""


@runtime_checkable
class HasEstimator(Protocol):
    """A model whose family has an EM estimator in :mod:`pyro_lvm.em`, as which it answers what has exact answers."""

    @classmethod
    def from_estimator(cls, estimator: Any) -> HasEstimator:
        """A started model at a fitted estimator's parameters."""

    def to_estimator(self) -> Any:
        """A fitted estimator at this model's parameters."""


@runtime_checkable
class Matches(Protocol):
    """A guide that can be put at a model's exact posterior, or as near to it as its form goes."""

    def match(self, model: Any) -> None:
        """Take over what the model's ``exact_posterior`` says."""


class ParamCapture(poutine.messenger.Messenger):
    """Collects the unconstrained tensors behind every parameter that runs inside it.

    By identity, not by name: a model and a guide may each own a parameter called ``loc``, and a trace would keep one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}
        self.names: dict[int, str] = {}

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        # A plain parameter is its own unconstrained tensor; Pyro marks only what went through its store.
        tensor = value.unconstrained() if hasattr(value, "unconstrained") else value
        self.tensors[id(tensor)] = tensor
        self.names[id(tensor)] = msg["name"]


class Pair:
    """A model and its guide, two callables with the same arguments, and the parameters that are theirs alone.

    Plain functions with ``pyro.param``, :class:`~pyro.nn.PyroModule` objects, and methods of a module all work, in any
    mix. What runs through :meth:`run_model` and :meth:`run_guide` sees a parameter store of this pair's own, so that
    two pairs in one process cannot meet; a module's parameters always live in the module.

    Args:
        model: ``model(x)``, the generative story of a batch of rows.
        guide: ``guide(x)``, the amortized posterior of the same rows.
        config: Plain JSON from which :func:`pyro_lvm.catalogue.rebuild` makes the pair again; None for a pair that was
            put together by hand.

    Raises:
        PairError: One of the two is not callable.
    """

    def __init__(self, model: Half, guide: Half, config: Mapping[str, Any] | None = None) -> None:
        for role, half in (("model", model), ("guide", guide)):
            if not callable(half):
                raise PairError(
                    f"the {role} is a {type(half).__name__}, which cannot be called: expected a function or a "
                    "PyroModule that takes a batch of rows"
                )
            if isinstance(half, type):
                raise PairError(
                    f"the {role} is the class {half.__name__}: expected an instance, for example "
                    f"{half.__name__}(data_dim=64, latent_dim=8)"
                )
        self.model = model
        self.guide = guide
        self.config: dict[str, Any] = dict(config or {})
        # What `pyro.param` made and no module owns.
        self._store: Any = {"params": {}, "constraints": {}}
        self._pending: dict[str, Tensor] = {}
        for module in self.modules().values():
            for parameter in module.parameters():
                # Pyro's store keeps a contiguous copy of a parameter that is not, and would train the copy.
                parameter.data = parameter.data.contiguous()

    # ------------------------------------------------------------------ running

    def run_model(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model with this pair's own parameters."""
        return self._run(self.model, *args, **kwargs)

    def run_guide(self, *args: Any, **kwargs: Any) -> Any:
        """Run the guide with this pair's own parameters."""
        return self._run(self.guide, *args, **kwargs)

    def _run(self, half: Half, *args: Any, **kwargs: Any) -> Any:
        if self._pending:
            # Loaded values of parameters that exist only once both halves have run.
            self.materialize(*args)
        hidden = self._hide(half)
        try:
            with pyro.get_param_store().scope(self._store):
                return half(*args, **kwargs)
        finally:
            self._keep_what_is_not_owned(hidden)

    def _keep_what_is_not_owned(self, hidden: dict[str, dict[str, Any]]) -> None:
        # A module that runs files its parameters in the store, by attribute name. They are the module's: left there,
        # the other half's attribute of the same name would be tied to them, and a later replacement go unnoticed.
        owned = {id(p) for module in self.modules().values() for p in module.parameters()}
        params = self._store["params"]
        for name in [name for name, tensor in params.items() if id(tensor) in owned]:
            del params[name]
            self._store["constraints"].pop(name, None)
        for kind, entries in hidden.items():
            self._store[kind].update(entries)

    def _hide(self, half: Half) -> dict[str, dict[str, Any]]:
        """Take out of the store what the other half's ``pyro.param`` filed under names of this module's attributes."""
        module = half if isinstance(half, PyroModule) else None
        if module is None or not self._store["params"]:
            return {}
        attributes = {name.removesuffix("_unconstrained") for name, _ in module.named_parameters()}
        clashing = [n for n in self._store["params"] if normalize_param_name(n) in attributes]
        return {kind: {n: self._store[kind].pop(n) for n in clashing} for kind in ("params", "constraints")}

    def modules(self) -> dict[str, nn.Module]:
        """The modules behind the two halves, by role; a function has none, a method has its owner."""
        found: dict[str, nn.Module] = {}
        for role, half in (("model", self.model), ("guide", self.guide)):
            owner = half if isinstance(half, nn.Module) else getattr(half, "__self__", None)
            if isinstance(owner, nn.Module) and all(owner is not other for other in found.values()):
                found[role] = owner
        return found

    # ------------------------------------------------------------------ parameters

    def start(self, x: Tensor, generator: torch.Generator | None = None, *, train: str = "both") -> None:
        """Give what is to be trained and has not been started a good start from data, the model first.

        A model may define ``start(x, generator)``, a guide ``start(x, model, generator)``. Both are left alone where
        their buffer ``started`` says that they hold something worth keeping. A guide that can :meth:`~Matches.match` a
        model goes on from the exact posterior of one that has been fitted: from anywhere else, the two would first
        unlearn it together. Trained alone, it starts as it would anyway, for that is the task.

        Args:
            x: Training rows, shape (rows, ...).
            generator: Source of the random part of a start.
            train: ``"both"``, ``"model"`` or ``"guide"``.
        """
        fitted = train == "both" and _is_started(self.model)
        starts = (("model", self.model, (x, generator)), ("guide", self.guide, (x, self.model, generator)))
        for role, half, arguments in starts:
            start = getattr(half, "start", None)
            if train not in ("both", role) or not callable(start) or _is_started(half):
                continue
            start(*arguments)
            if role == "guide" and fitted and isinstance(self.model, HasExactPosterior) and isinstance(half, Matches):
                half.match(self.model)

    def materialize(self, x: Tensor) -> dict[str, set[int]]:
        """Run both halves once, so that parameters that are made when first used exist.

        Args:
            x: A few rows, shape (rows, ...).

        Returns:
            The identities (``id``) of the tensors that each half uses: ``{"model": ..., "guide": ...}``.
        """
        pending, self._pending = self._pending, {}
        random_state = pyro.util.get_rng_state()
        buffers = [(b, b.detach().clone()) for module in self.modules().values() for b in module.buffers()]
        try:
            with poutine.block(), torch.no_grad():
                with ParamCapture() as in_guide:
                    guide_trace = poutine.trace(self.run_guide).get_trace(x)
                with ParamCapture() as in_model:
                    poutine.trace(poutine.replay(self.run_model, trace=guide_trace)).get_trace(x)
        finally:
            pyro.util.set_rng_state(random_state)
            for buffer, value in buffers:
                buffer.copy_(value)
        if pending:
            self.load_state_dict({**self.state_dict(), **pending})
        model, guide = set(in_model.tensors), set(in_guide.tensors)
        if isinstance(self.guide, AutoGuide):
            # An autoguide runs its model to see its sites; the model's parameters are not the guide's.
            guide -= model
        return {"model": model, "guide": guide}

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every unconstrained parameter once: ``model.*`` and ``guide.*`` of modules, ``store.*`` of ``pyro.param``."""
        seen: set[int] = set()
        named = [
            (f"{role}.{name}", p) for role, module in self.modules().items() for name, p in module.named_parameters()
        ]
        named += [(f"store.{name}", p) for name, p in self._store["params"].items()]
        for name, parameter in named:
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters (unconstrained) and buffers by name, each tensor once; they are the live tensors, not copies."""
        state = {name: parameter.detach() for name, parameter in self.named_parameters()}
        seen: set[int] = set()
        for role, module in self.modules().items():
            persistent = module.state_dict()
            for name, buffer in module.named_buffers():
                if name in persistent and id(buffer) not in seen:
                    seen.add(id(buffer))
                    state[f"{role}.{name}"] = buffer.detach()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy saved values into the pair's tensors.

        A parameter that ``pyro.param`` will only make when it first runs is kept and given its value then.

        Args:
            state: What :meth:`state_dict` gave.

        Raises:
            ArtifactError: A name or a shape doesn't fit this pair.
        """
        own = self.state_dict()
        late = {name for name in state if name not in own and name.startswith("store.")}
        unknown, absent = sorted(set(state) - set(own) - late), sorted(set(own) - set(state))
        if unknown or absent:
            raise ArtifactError(
                f"the saved weights don't fit this pair: unknown {unknown or 'none'}, absent {absent or 'none'}; "
                "build the pair with the configuration that it was saved with"
            )
        for name, value in state.items():
            if name in late:
                self._pending[name] = value
            elif own[name].shape != value.shape:
                raise ArtifactError(
                    f"the saved weights don't fit this pair: '{name}' has shape {tuple(value.shape)}, expected "
                    f"{tuple(own[name].shape)}"
                )
            else:
                own[name].copy_(value)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the context, modules are in evaluation mode and nothing is recorded for gradients."""
        modes = [(module, module.training) for owner in self.modules().values() for module in owner.modules()]
        for module, _ in modes:
            module.training = False
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes:
                module.training = training

    def to(self, device: torch.device | str) -> Pair:
        """Move everything to a device, in place; returns the pair."""
        for module in self.modules().values():
            module.to(device)
        for parameter in self._store["params"].values():
            parameter.data = parameter.data.to(device)
        return self

    @property
    def elbo(self) -> ELBO | type[ELBO] | None:
        """The Pyro ELBO that the pair says it needs, as attribute ``elbo`` of the guide or the model; None for any."""
        for half in (self.guide, self.model):
            wanted = getattr(half, "elbo", None)
            if isinstance(wanted, ELBO) or (isinstance(wanted, type) and issubclass(wanted, ELBO)):
                return wanted
        return None

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU for a pair without any."""
        return next((p.device for _, p in self.named_parameters()), torch.device("cpu"))

    def __repr__(self) -> str:
        def describe(half: Half) -> str:
            return getattr(half, "__qualname__", type(half).__name__)

        return f"Pair(model={describe(self.model)}, guide={describe(self.guide)})"


def _is_started(half: Half) -> bool:
    started = getattr(half, "started", None)
    return isinstance(started, Tensor) and bool(started)


def acceptable(pair: Pair, rows: Tensor) -> Tensor:
    """Which rows the guide can take: all, or those that lack nothing where it says so, shape (rows,)."""
    if not rows.is_floating_point() or getattr(pair.guide, "accepts_missing", True):
        return torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    return ~rows.reshape(len(rows), -1).isnan().any(1)


def refuse_holes(pair: Pair, rows: Tensor | None) -> None:
    """Refuse rows with missing entries for a guide that says it can't take them.

    Raises:
        PairError: It can't, and there are some.
    """
    if rows is None or not rows.is_floating_point() or getattr(pair.guide, "accepts_missing", True):
        return
    missing = int(torch.isnan(rows).sum())
    if missing:
        raise holes_refused(pair, missing)


def holes_refused(pair: Pair, missing: int) -> PairError:
    """What is said of a guide that can't take so many missing entries."""
    name = getattr(pair.guide, "__qualname__", type(pair.guide).__name__)
    return PairError(
        f"the data has {missing} missing entries, which the guide {name} cannot take: use a guide that accepts missing "
        "entries, or drop those rows"
    )
