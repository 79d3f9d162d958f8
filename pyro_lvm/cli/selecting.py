"""``pyro-lvm select``: how many latent dimensions the data support."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pyro_lvm.cli.options import (
    DataArg,
    DropArg,
    FeaturesArg,
    JsonArg,
    LabelArg,
    QuietArg,
    RootArg,
    ScaleArg,
    data_source,
    pair_options,
)
from pyro_lvm.errors import PyroLvmError

if TYPE_CHECKING:
    from pyro_lvm.em import SelectionCurve


# Each is fitted, and to several folds.
_MOST_CANDIDATES = 10_000


def select_command(
    pair: Annotated[str, typer.Argument(help="Name of a pair with an estimator, as ppca.")],
    candidates: Annotated[str, typer.Option("--range", help="Numbers to compare: 1:20, 1:20:2 or 2,5,10.")],
    data: DataArg = "digits",
    data_root: RootArg = None,
    scale: ScaleArg = "none",
    drop: DropArg = None,
    label: LabelArg = None,
    features: FeaturesArg = None,
    criterion: Annotated[str, typer.Option(help="evidence, imputation, bic or laplace.")] = "evidence",
    parameter: Annotated[
        str, typer.Option(help="What --range counts: n_components (latent dimensions), or n_mixtures of a mixture.")
    ] = "n_components",
    option: Annotated[list[str] | None, typer.Option(help="Option of the estimator, NAME=VALUE; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and starts.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for curve.csv and curve.png.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a curve that is already in --out.")] = False,
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Compare numbers of latent dimensions on data, with or without missing entries, and mark the best.

    `evidence` is held-out log-evidence and `imputation` the error of imputing held-out entries, both over five folds;
    `bic` and `laplace` (of complete rows) look at the training rows alone.

    Examples:

    - `pyro-lvm select ppca --data digits --range 1:20`

    - `pyro-lvm select ppca --data holes.csv --scale standard --range 1:5 --criterion imputation --out curves/holes`
    """
    from pyro_lvm.selecting import check_curve_folder, save_curve, select_size

    if out is not None:
        # Before the work, not after it.
        check_curve_folder(out, force=force)
    curve = select_size(
        pair,
        data_source(data, data_root, scale, drop, label, features),
        _candidates(candidates),
        criterion=criterion,
        parameter=parameter,
        options=pair_options(option),
        seed=seed,
        progress=not (quiet or as_json),
    )
    written = [] if out is None else save_curve(curve, out)
    if as_json:
        facts = {name: getattr(curve, name) for name in ("parameter", "criterion", "higher_is_better", "best")}
        print(json.dumps({**facts, "curve": curve.to_frame().to_dict("records")}, indent=2))
    elif not quiet:
        Console().print(_table(curve, f"{pair} on {data}"))
        if curve.best == max(curve.candidates) > min(curve.candidates):
            print("the best is the largest of the range: one beyond it may be better")
        if out is not None:
            print(f"saved in {out}: {', '.join(path.name for path in written)}")


def _candidates(text: str) -> Sequence[int]:
    """``1:20`` and ``1:20:2`` with both ends, or ``2,5,10``."""
    try:
        if ":" in text:
            first, last, *step = (int(part) for part in text.split(":"))
            numbers: Sequence[int] = range(first, last + 1, *step)
        else:
            numbers = [int(part) for part in text.split(",")]
    except (ValueError, TypeError):
        numbers = []
    if not 1 <= len(numbers) <= _MOST_CANDIDATES or min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise PyroLvmError(
            f"--range {text}: expected whole numbers from 1 up, at most {_MOST_CANDIDATES:,} of them, as in 1:20, "
            "1:20:2 or 2,5,10"
        )
    return numbers


def _table(curve: SelectionCurve, title: str) -> Table:
    table = Table(title=title)
    table.add_column(curve.parameter, justify="right")
    table.add_column(
        f"{curve.criterion} ({'higher' if curve.higher_is_better else 'lower'} is better)", justify="right"
    )
    folds = any(curve.standard_errors)
    if folds:
        table.add_column("standard error", justify="right")
    table.add_column("")
    for candidate, score, error in zip(curve.candidates, curve.scores, curve.standard_errors, strict=True):
        mark = "best" if candidate == curve.best else ""
        table.add_row(str(candidate), f"{score:.5f}", *([f"{error:.5f}"] if folds else []), mark)
    return table
