"""Finding pairs by name or by file, and building them from plain JSON."""

from __future__ import annotations

import copy
import difflib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from pyro_lvm.errors import PairError
from pyro_lvm.pair import Half, Pair
from pyro_lvm.seeding import seeded

ENTRY_POINTS = "pyro_lvm.pairs"


@dataclass(frozen=True)
class PairSpec:
    """A model and the guides that go with it, as the entry-point group ``pyro_lvm.pairs`` offers them.

    Args:
        summary: One line that says what the pair is for.
        model: Makes the model; its parameters are the pair's options, filled from facts of the data where they bear the
            facts' names (``data_dim``, ``image_shape``).
        guides: Makers of guides by name, the default first.
        estimator: Makes the EM estimator of the model's family, for fits by EM or in closed form and for the choice of
            its size; None where there is none. Its model then has ``from_estimator`` and ``to_estimator``.
        name: What the pair is called; set by whoever finds it.
    """

    summary: str
    model: Callable[..., Half]
    guides: Mapping[str, Callable[..., Half]]
    estimator: Callable[..., Any] | None = None
    name: str = field(default="")

    def options(self, guide: str | None = None) -> dict[str, Any]:
        """Options of the model and one of its guides with their defaults, ``inspect.Parameter.empty`` for none."""
        found: dict[str, Any] = {}
        for maker in (self.model, self.guide_maker(guide)):
            found |= {name: p.default for name, p in _parameters(maker).items() if found.get(name) is None}
        return found

    def guide_maker(self, guide: str | None = None) -> Callable[..., Half]:
        """The maker of a guide by its name; None for the default.

        Raises:
            PairError: No guide of that name.
        """
        name = guide if guide is not None else next(iter(self.guides))
        if name not in self.guides:
            raise PairError(f"pair '{self.name}' has no guide '{name}': expected one of {', '.join(self.guides)}")
        return self.guides[name]

    def default_guide(self, *, missing: bool = False) -> str:
        """Name of the first guide, or of the first that takes missing entries where there are any and one that does.

        Args:
            missing: Whether entries are missing.
        """
        taking = [
            name
            for name, maker in self.guides.items()
            if not missing or getattr(getattr(maker, "func", maker), "accepts_missing", True)
        ]
        return next(iter(taking or self.guides))


def names() -> list[str]:
    """Names of the installed pairs."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)})


def find(reference: str) -> PairSpec:
    """The pair of a name (``ppca``) or of a file (``my_pair.py:model,guide``).

    In a file, each of the two names may be a function, an object or a class; a class is built from the data's facts and
    the options given.

    Args:
        reference: A name or ``FILE.py:MODEL,GUIDE``. A file's code is executed.

    Raises:
        PairError: Nothing of that name, or a file that can't be read or doesn't define the two.
    """
    if ".py" in reference or "/" in reference:
        return _from_file(reference)
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name == reference:
            spec = point.load()
            if not isinstance(spec, PairSpec):
                raise PairError(
                    f"the installed pair '{reference}' ({point.value}) is a {type(spec).__name__}: expected a PairSpec"
                )
            return replace(spec, name=reference)
    near = difflib.get_close_matches(reference, names(), 1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise PairError(
        f"unknown pair '{reference}': {hint}installed are {', '.join(names()) or 'none'}; "
        "or name a file, my_pair.py:model,guide"
    )


def build(
    reference: str | PairSpec,
    facts: Mapping[str, Any],
    *,
    guide: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Pair:
    """Build a pair from what is known of the data and the options of its makers.

    Args:
        reference: A name, a file, or what :func:`find` gave.
        facts: What is known of the data: ``data_dim``, and ``image_shape`` for images; each goes to makers that ask.
        guide: Name of the guide; None for the default.
        options: The makers' other arguments.
        seed: Of random initial parameters; the caller's random state is left as it was.

    Returns:
        The pair; its ``config`` builds it again by :func:`rebuild`.

    Raises:
        PairError: An unknown pair, guide or option, or an option out of range.
    """
    spec = find(reference) if isinstance(reference, str) else reference
    guide = guide if guide is not None else next(iter(spec.guides))
    makers = {"model": spec.model, "guide": spec.guide_maker(guide)}
    options = dict(options or {})
    known = spec.options(guide)
    unknown = sorted(set(options) - set(known) | set(options) & set(facts))
    if unknown:
        choices = ", ".join(sorted(set(known) - set(facts))) or "none"
        raise PairError(f"pair '{spec.name}' has no option '{unknown[0]}': its options are {choices}")
    given = {**{k: v for k, v in facts.items() if v is not None}, **options}
    arguments = {role: {k: given[k] for k in _parameters(maker) if k in given} for role, maker in makers.items()}
    for role, maker in makers.items():
        for name, parameter in _parameters(maker).items():
            if parameter.default is inspect.Parameter.empty and name not in arguments[role]:
                raise PairError(
                    f"the {role} of pair '{spec.name}' needs '{name}', which neither the data nor an option gives"
                )
    with seeded(seed):
        try:
            halves = {role: maker(**arguments[role]) for role, maker in makers.items()}
        except (TypeError, RuntimeError) as error:
            raise PairError(f"pair '{spec.name}' can't be built from {options}: {error}") from error
    config = {"pair": spec.name, "guide": guide, "arguments": arguments}
    return Pair(halves["model"], halves["guide"], config)


def rebuild(config: Mapping[str, Any], spec: PairSpec | None = None) -> Pair:
    """Build a pair again from its ``config``.

    Args:
        config: What :attr:`Pair.config` holds: plain JSON.
        spec: The pair's makers, where they are at hand. They must be given for a pair of a file: a configuration names
            code, it never runs any that is not installed.

    Raises:
        PairError: The configuration is not one, or names a file.
    """
    try:
        name, guide, arguments = config["pair"], config["guide"], config["arguments"]
        model_arguments, guide_arguments = dict(arguments["model"]), dict(arguments["guide"])
    except (KeyError, TypeError) as error:
        raise PairError(f"this is no configuration of a pair: {error} is missing or of the wrong type") from error
    if spec is None:
        if ".py" in name or "/" in name:
            raise PairError(
                f"the pair was defined in a file, '{name}', which is not run unasked: name it, as in --pair {name}"
            )
        spec = find(name)
    try:
        model, made = spec.model(**model_arguments), spec.guide_maker(guide)(**guide_arguments)
    except TypeError as error:
        raise PairError(f"pair '{name}' can't be built from its configuration: {error}") from error
    return Pair(model, made, config)


def _parameters(maker: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a maker can be given; what a partial has already fixed is not to be had again."""
    fixed = getattr(maker, "keywords", {})
    return {
        name: parameter
        for name, parameter in inspect.signature(maker).parameters.items()
        if name not in fixed
        and parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }


def run_file(path: Path) -> ModuleType:
    """Run a Python file that a person has named, as a module.

    Raises:
        PairError: It raises an exception.
    """
    name = f"_pyro_lvm_pair_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up by name
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise PairError(f"running '{path}' failed: {type(error).__name__}: {error}") from error
    return module


def _from_file(reference: str) -> PairSpec:
    path_text, _, halves = reference.rpartition(":")
    model_name, _, guide_name = halves.partition(",")
    path = Path(path_text)
    if not path_text.endswith(".py") or not model_name or not guide_name:
        raise PairError(
            f"'{reference}' names no pair in a file: expected FILE.py:MODEL,GUIDE, as in my_pair.py:model,guide"
        )
    if not path.is_file():
        raise PairError(f"no file '{path}': expected a Python file that defines {model_name} and {guide_name}")
    module = run_file(path)
    makers = {}
    for half in (model_name, guide_name):
        if not hasattr(module, half):
            offered = [
                n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__
            ]
            raise PairError(f"'{path}' defines no '{half}': it has {', '.join(offered) or 'nothing callable'}")
        makers[half] = _maker(getattr(module, half))
    summary = (module.__doc__ or "a pair of one's own").strip().splitlines()[0]
    return PairSpec(summary, makers[model_name], {guide_name: makers[guide_name]}, name=reference)


def _maker(found: Any) -> Callable[..., Half]:
    if isinstance(found, type):
        return found
    if not callable(found):
        raise PairError(f"a {type(found).__name__} is no half of a pair: expected a function, a PyroModule or a class")
    if isinstance(found, nn.Module):
        # A module in a file is one object; every build must have parameters of its own.
        return lambda: copy.deepcopy(found)
    return lambda: found
