"""The estimators of a gradient by their names, and which of them a pair admits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyro
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_lvm.errors import PairError
from pyro_lvm.gradients import divergences  # noqa: F401 - registers a divergence
from pyro_lvm.gradients.baselines import NetworkBaseline, average_baseline
from pyro_lvm.gradients.drawing import Drawing, Latents, latents_of, refuse_moving_support
from pyro_lvm.importance import ImportanceWeightedELBO
from pyro_lvm.pair import Pair
from pyro_lvm.plate import feeding

Baseline = Literal["none", "average", "network"]


@dataclass(frozen=True)
class EstimatorSpec:
    """What an estimator does with the latents.

    Attributes:
        name: What it is called.
        summary: One line that says what it is.
        elbo: The Pyro objective that computes it.
        draws: What is drawn by the score function: ``"pathwise"`` nothing, ``"mixed"`` what can't be reparameterized,
            ``"score"`` everything, ``"as it is"`` whatever comes; ``"enumerated"`` sums over what is discrete and
            reparameterizes the rest.
        baseline: What is subtracted from the score function's learning signal.
        warm_up: Draws until its baseline has settled.
        bound: What it is the gradient of.
        particles: Draws a row where none are given.
    """

    name: str
    summary: str
    elbo: type[ELBO]
    draws: Literal["pathwise", "mixed", "score", "as it is", "enumerated"]
    baseline: Baseline = "none"
    warm_up: int = 1
    bound: Literal["ELBO", "importance-weighted bound"] = "ELBO"
    particles: int = 1


def _by_score(draws: Literal["mixed", "score"], what: str) -> list[EstimatorSpec]:
    average = "its learning signal less a decaying average"
    network = "its learning signal less a network's guess from the row"
    return [
        EstimatorSpec(draws, what, Trace_ELBO, draws),
        EstimatorSpec(f"{draws}+average", f"{what}, {average}", TraceGraph_ELBO, draws, "average", 60),
        EstimatorSpec(f"{draws}+network", f"{what}, {network}", TraceGraph_ELBO, draws, "network", 300),
    ]


ESTIMATORS: dict[str, EstimatorSpec] = {
    spec.name: spec
    for spec in (
        EstimatorSpec("reparameterization", "gradient through the draw", Trace_ELBO, "pathwise"),
        EstimatorSpec(
            "analytic KL",
            "gradient through the draw for log p(x | z), the KL to the prior in closed form",
            TraceMeanField_ELBO,
            "pathwise",
        ),
        EstimatorSpec(
            "enumeration",
            "sum over discrete latents, gradient through the draw of others",
            TraceEnum_ELBO,
            "enumerated",
        ),
        *_by_score("mixed", "score function for what can't be reparameterized, gradient through the draw for the rest"),
        *_by_score("score", "score function (log-derivative trick) for every latent"),
        EstimatorSpec(
            "importance-weighted",
            "the importance-weighted bound's, through the draw or by the score function as it comes",
            ImportanceWeightedELBO,
            "as it is",
            bound="importance-weighted bound",
            particles=5,
        ),
    )
}
"""The estimators by name."""


def parse(reference: str) -> tuple[EstimatorSpec, int]:
    """The estimator and the number of draws a row of ``NAME`` or ``NAME:DRAWS``, as ``score`` or ``score:16``.

    Raises:
        PairError: No estimator of that name, or a number of draws that is none.
    """
    name, separator, count = reference.partition(":")
    if name not in ESTIMATORS:
        raise PairError(f"no gradient estimator '{name}': expected one of {', '.join(ESTIMATORS)}")
    spec = ESTIMATORS[name]
    if separator and not (count.isdecimal() and int(count) >= 1):
        raise PairError(f"'{reference}': expected {name}:DRAWS with draws a row from 1 up, as {name}:4")
    return spec, int(count) if separator else spec.particles


def admitted(pair: Pair, x: Tensor) -> list[str]:
    """Names of the estimators of the ELBO's gradient that a pair admits.

    Args:
        pair: Any pair.
        x: Rows, shape (rows, ...).
    """
    latents = latents_of(pair, x)
    names = []
    for spec in ESTIMATORS.values():
        try:
            refuse(spec, latents)
        except PairError:
            continue
        if spec.bound == "ELBO":
            names.append(spec.name)
    return names


def refuse(spec: EstimatorSpec, latents: Latents) -> None:
    """Refuse an estimator that latents don't admit.

    Raises:
        PairError: They don't; it says which latent is in the way.
    """
    name = f"the estimator '{spec.name}'"
    if not (latents.pathwise or latents.drawn or latents.summed):
        raise PairError(f"{name} has nothing to draw: the guide has point masses only, whose gradient is exact")
    if spec.draws != "enumerated" and latents.summed:
        raise PairError(
            f"{name} needs draws, and the guide draws no '{latents.summed[0]}', which the model leaves to be summed "
            "out: use enumeration"
        )
    if spec.draws == "pathwise" and latents.drawn:
        site, distribution = next(iter(latents.drawn.items()))
        raise PairError(
            f"{name} needs latents that can be reparameterized, and '{site}' is drawn from a "
            f"{_kind(distribution)}: use enumeration, mixed or score"
        )
    if spec.draws == "mixed" and not (latents.drawn and latents.pathwise):
        other = "reparameterization" if latents.pathwise else "score"
        raise PairError(f"{name} needs latents that can be reparameterized and others that can't: use {other}")
    if spec.draws == "score":
        for site, distribution in latents.pathwise.items():
            refuse_moving_support(site, distribution)
    if spec.draws == "enumerated":
        _refuse_enumeration(latents)
    if spec.elbo is TraceMeanField_ELBO:
        _refuse_analytic_kl(latents)
    if spec.elbo is ImportanceWeightedELBO and latents.shared:
        raise PairError(
            f"{name} weighs single rows, which share the latent '{latents.shared[0]}': use an estimator of the ELBO"
        )


def _refuse_enumeration(latents: Latents) -> None:
    endless = [site for site, d in latents.drawn.items() if not d.has_enumerate_support]
    if endless:
        raise PairError(
            f"the estimator 'enumeration' can't sum over '{endless[0]}', drawn from a "
            f"{_kind(latents.drawn[endless[0]])}: use mixed or score"
        )
    if not latents.drawn and not latents.summed:
        raise PairError(
            f"the estimator 'enumeration' needs a discrete latent, and {', '.join(map(repr, latents.pathwise))} can be "
            "reparameterized: use reparameterization"
        )


def _refuse_analytic_kl(latents: Latents) -> None:
    if [n for n in latents.priors if n in latents.pathwise] != list(latents.pathwise):
        raise PairError(
            "the estimator 'analytic KL' needs the latents in the same order in model and guide, "
            f"and the guide draws {', '.join(latents.pathwise)}: draw them in the model's order"
        )
    missing = []
    for site, distribution in latents.pathwise.items():
        try:
            kl_divergence(distribution, latents.priors[site])
        except (NotImplementedError, KeyError):
            missing.append(site)
    if len(missing) == len(latents.pathwise):
        site = missing[0]
        prior = latents.priors.get(site)
        raise PairError(
            f"the estimator 'analytic KL' has no closed form for '{site}', KL({_kind(latents.pathwise[site])} || "
            f"{'no prior' if prior is None else _kind(prior)}): use reparameterization"
        )


def _kind(distribution: Any) -> str:
    while type(distribution).__name__ in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        distribution = distribution.base_dist
    return type(distribution).__name__


class GradientEstimator:
    """A pair's gradient by one estimator, ready to be drawn again and again.

    What it is the gradient of is the bound *a row*: the ELBO, or the importance-weighted one, of all rows divided by
    their number N. A batch of B rows gives an unbiased estimate of it: every term of a row counts N/B times, the KL as
    well as log p(x | z).

    Args:
        reference: ``NAME`` or ``NAME:DRAWS``; see :data:`ESTIMATORS`.
        pair: Any pair.
        x: Rows as they will be given, shape (batch, ...).
        num_rows: Rows N of the data set that batches come from; None for those of ``x``.

    Raises:
        PairError: An unknown estimator, or one that the pair doesn't admit.

    Example:
        >>> from pyro_lvm import Pair, data
        >>> from pyro_lvm.guides import LinearGaussian
        >>> from pyro_lvm.models import PPCA
        >>> pair, x = Pair(PPCA(64, 2), LinearGaussian(64, 2)), data.load("digits").rows
        >>> estimator = GradientEstimator("score+average", pair, x)
        >>> loss = estimator.backward(x)
        >>> pair.guide.offset.grad.shape
        torch.Size([2])
    """

    def __init__(self, reference: str, pair: Pair, x: Tensor, num_rows: int | None = None) -> None:
        self.spec, self.particles = parse(reference)
        latents = latents_of(pair, x)
        refuse(self.spec, latents)
        self.reference = reference
        self.num_rows = len(x) if num_rows is None else num_rows
        self.network = NetworkBaseline(pair, x) if self.spec.baseline == "network" else None
        self._elbo: Any = self.spec.elbo(num_particles=self.particles, max_plate_nesting=latents.plate_nesting)
        drawing = Drawing(
            scored=self.spec.draws == "score",
            enumerated=self.spec.draws == "enumerated",
            baseline=average_baseline if self.spec.baseline == "average" else self.network,
        )
        self._model = poutine.scale(pair.run_model, 1.0 / self.num_rows)
        self._guide = poutine.scale(drawing(pair.run_guide), 1.0 / self.num_rows)
        # Pyro files a decaying average in its store, by the latent's name alone.
        self._store: Any = {"params": {}, "constraints": {}}

    @property
    def bound(self) -> str:
        """What it is the gradient of."""
        return self.spec.bound if self.spec.bound == "ELBO" else f"{self.spec.bound}, k = {self.particles}"

    def backward(self, x: Tensor) -> float:
        """Draw, and add the gradient of minus the bound a row to the parameters' ``grad``; a baseline learns from it.

        Args:
            x: A batch, shape (batch, ...), the same number of rows every time.

        Returns:
            Minus the bound, as estimated from this draw, in nats a row.
        """
        if self.network is not None:
            self.network.batch = x
        with feeding(self.num_rows), pyro.get_param_store().scope(self._store):
            loss = float(self._elbo.loss_and_grads(self._model, self._guide, x))
        if self.network is not None:
            self.network.learn()
        return loss
