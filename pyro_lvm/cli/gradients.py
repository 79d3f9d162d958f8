"""``pyro-lvm gradients``: the gradient estimators of a run's pair, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pyro_lvm.cli.options import DeviceArg, FileArg, JsonArg, QuietArg, RootArg, RunArg
from pyro_lvm.errors import DataError, PyroLvmError

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_lvm.gradients import GradientComparison
    from pyro_lvm.pair import Pair


def gradients_command(
    run: RunArg,
    estimators: Annotated[
        str | None,
        typer.Option(help="Names, separated by commas, each with :DRAWS for so many draws a row; else what applies."),
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of each.")] = 200,
    rows: Annotated[int, typer.Option(help="Rows to take the gradient of, at most, chosen at random.")] = 1000,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows of a draw; else all, for the noise of the draws alone.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the figure: png, pdf or svg.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of rows, batches and draws.")] = 0,
    device: DeviceArg = "auto",
    data_root: RootArg = None,
    pair: FileArg = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a figure that is there.")] = False,
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Compare gradient estimators at a run's parameters: bias, noise and cost of each.

    Estimators: reparameterization, analytic KL, enumeration, mixed, score, the last two with +average or +network, and
    importance-weighted, the gradient of another bound.

    Examples:

    - `pyro-lvm gradients runs/ppca`

    - `pyro-lvm gradients runs/ppca --estimators score,score+average,importance-weighted:10 --out noise.png`
    """
    from matplotlib.figure import Figure

    from pyro_lvm.data.writing import check_new_file
    from pyro_lvm.gradients import compare

    if out is not None:
        # Before the work, not after it.
        known = Figure().canvas.get_supported_filetypes()
        if out.suffix[1:].lower() not in known:
            raise DataError(f"'{out}' has an ending that isn't known: expected one of {', '.join(sorted(known))}")
        check_new_file(out, force=force)
    if rows < 1:
        raise DataError(f"--rows {rows}: expected 1 or more")
    names = None if estimators is None else [name.strip() for name in estimators.split(",")]
    own, x = _pair_and_rows(run, pair, data_root, device, rows, seed)
    if batch_size is not None and batch_size > len(x):
        raise PyroLvmError(f"--batch-size {batch_size} of {len(x)} rows: expected no more than --rows")
    progress = not (quiet or as_json)
    compared = compare(
        own.model, own.guide, x, names, draws, batch_size=batch_size, seed=seed, progress=progress, pair=own
    )
    if out is not None:
        _save(compared, out)
    if as_json:
        print(json.dumps(compared.to_json(), indent=2))
    elif not quiet:
        Console().print(compared)
        if out is not None:
            print(f"saved {out}")


def _pair_and_rows(
    run: Path, file: str | None, root: str | None, device: str, count: int, seed: int
) -> tuple[Pair, Tensor]:
    """A run's pair on its device, and some of the rows that it was trained on, as it sees them."""
    import torch

    from pyro_lvm.reading import load_run

    loaded = load_run(run, root=root, pair=file, device=device)
    training, _ = loaded.parts()
    chosen = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return loaded.pair, loaded.scaling.transform(training[chosen]).to(loaded.pair.device)


def _save(compared: GradientComparison, out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from pyro_lvm.data.writing import replacing
    from pyro_lvm.plots import gradient_noise
    from pyro_lvm.plots.files import DPI

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_size_inches(8.0, 1.9 + 0.42 * len(compared.measured))
    gradient_noise(compared, ax=figure.add_subplot())
    with replacing(out) as beside:
        figure.savefig(beside, dpi=DPI, format=out.suffix[1:].lower(), bbox_inches="tight")
