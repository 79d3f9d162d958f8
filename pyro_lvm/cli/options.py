"""Options that several commands share, and what they are turned into."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from pyro_lvm.errors import PairError, PyroLvmError

if TYPE_CHECKING:
    from pyro_lvm.source import DataSource


RunArg = Annotated[Path, typer.Argument(help="Folder of a run that `pyro-lvm fit --out` saved.")]
DataArg = Annotated[str, typer.Option("--data", help="Name of a data set (digits, mnist, ...) or a file.")]
RootArg = Annotated[str | None, typer.Option("--data-root", help="Folder of a named data set's files.")]
ScaleArg = Annotated[
    str, typer.Option("--scale", help="none, standard (each feature to mean 0, sd 1) or unit (0 to 1).")
]
BinarizeArg = Annotated[
    str, typer.Option("--binarize", help="Grey values to zeros and ones: none, static (once) or dynamic (each batch).")
]
OthersArg = Annotated[
    str | None, typer.Option("--data", help="Other rows; else the run's held-out ones, or all of its own.")
]
RowsSeedArg = Annotated[int, typer.Option("--seed", help="Seed of the choice of rows and of the draws.")]
DropArg = Annotated[str | None, typer.Option("--drop", help="Columns of a table to leave out: A,B.")]
LabelArg = Annotated[str | None, typer.Option("--label", help="Column of a table that holds labels, for the figures.")]
FeaturesArg = Annotated[
    str | None, typer.Option("--features", help="Columns of a table to use: A,B; else all, or those of the run.")
]
GuideArg = Annotated[str | None, typer.Option(help="Name of the guide, as in full or diagonal for ppca.")]
LatentArg = Annotated[int | None, typer.Option(help="Number of latent coordinates.")]
ComponentsArg = Annotated[int | None, typer.Option("--components", help="Number of components of a mixture.")]
EstimatorArg = Annotated[str | None, typer.Option(help="Gradient for a discrete latent: enumerate, score or baseline.")]
LikelihoodArg = Annotated[
    str | None, typer.Option(help="gaussian, gaussian-fixed, gaussian-decoded, bernoulli or continuous-bernoulli.")
]
OptionArg = Annotated[list[str] | None, typer.Option(help="Another option of the pair, NAME=VALUE; repeatable.")]
FileArg = Annotated[str | None, typer.Option("--pair", help="FILE.py:MODEL,GUIDE, for a run of a pair of a file.")]
DeviceArg = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
ForceArg = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
JsonArg = Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object, and nothing else.")]
QuietArg = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors (and JSON, if asked for).")]


def data_source(
    reference: str,
    root: str | None,
    scale: str,
    drop: str | None,
    label: str | None,
    features: str | None,
    streamed: bool | None = None,
    binarize: str = "none",
) -> DataSource:
    from pyro_lvm.data import BinarizationKind, ScalingKind
    from pyro_lvm.source import DataSource

    named = {"drop": drop, "features": features}
    options: dict[str, Any] = {name: value.split(",") for name, value in named.items() if value is not None}
    if label is not None:
        options["label"] = label
    kinds = get_args(ScalingKind)
    if scale not in kinds:
        raise PyroLvmError(f"--scale {scale}: expected one of {', '.join(kinds)}")
    if binarize not in get_args(BinarizationKind):
        raise PyroLvmError(f"--binarize {binarize}: expected one of {', '.join(get_args(BinarizationKind))}")
    return DataSource(reference, root, options, cast(ScalingKind, scale), streamed, cast(BinarizationKind, binarize))


def pair_options(given: list[str] | None, **named: Any) -> dict[str, Any]:
    """A pair's options: those that have a flag of their own, None where it wasn't given, and NAME=VALUE."""
    options = {name: value for name, value in named.items() if value is not None}
    for text in given or []:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise PairError(f"--option {text}: expected NAME=VALUE, as in --option latent_dim=8")
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            options[name.replace("-", "_")] = value
    return options


def typed(context: typer.Context, without: Sequence[str] = ()) -> str:
    """The command that a person typed, as one line for a shell, without some of its options."""
    words = ["pyro-lvm", str(context.info_name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        # By name: which click it is of depends on the release of typer.
        if name in without or getattr(context.get_parameter_source(name), "name", "") != "COMMANDLINE":
            continue
        value = context.params[name]
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                words += [parameter.opts[0], str(one)]
    return shlex.join(words)
