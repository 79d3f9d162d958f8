"""``pyro-lvm ppc``: whether a run's model describes the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

from pyro_lvm.cli.options import (
    DeviceArg,
    DropArg,
    FeaturesArg,
    FileArg,
    JsonArg,
    LabelArg,
    OthersArg,
    QuietArg,
    RootArg,
    RowsSeedArg,
    RunArg,
    data_source,
)
from pyro_lvm.errors import PyroLvmError


def ppc_command(
    run: RunArg,
    draws: Annotated[
        int, typer.Option(help="Replicates; the p-value of a single number is never below 2 / (draws + 1).")
    ] = 400,
    statistics: Annotated[
        str | None,
        typer.Option(help="Names, separated by commas, or FILE.py:FUNCTION; else the usual ones."),
    ] = None,
    replication: Annotated[
        str, typer.Option(help="mixed: replicates are new rows; posterior: the same rows, from their own latents.")
    ] = "mixed",
    refits: Annotated[
        int | None,
        typer.Option(
            "--refits",
            help="Fits that the replicates are spread over, so that the parameters' uncertainty counts; 0 for none. "
            "Else 20 or more for held-out rows of a small ppca or factor-analysis.",
        ),
    ] = None,
    refit_steps: Annotated[
        int, typer.Option("--refit-steps", help="Gradient steps of a refit, for a pair without an estimator.")
    ] = 1000,
    rows: Annotated[
        int | None, typer.Option("--rows", help="As many rows at random; else all, if not too many.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; else `ppc` in the run's.")] = None,
    data: OthersArg = None,
    data_root: RootArg = None,
    drop: DropArg = None,
    label: LabelArg = None,
    features: FeaturesArg = None,
    seed: RowsSeedArg = 0,
    pair: FileArg = None,
    device: DeviceArg = "auto",
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Compare statistics of rows with those of replicates that the model makes: a p-value and a verdict each.

    Writes draws.nc, which ArviZ reads, and pictures.

    Examples:

    - `pyro-lvm ppc runs/ppca`

    - `pyro-lvm ppc runs/vae --data test.npy --statistics kurtosis,spectrum,my.py:longest_run --draws 1000 --json`

    - `pyro-lvm ppc runs/vae --refits 20 --refit-steps 2000`
    """
    from pyro_lvm.criticizing import ppc_run
    from pyro_lvm.predictive import Replication
    from pyro_lvm.tables import predictive_table

    if replication not in get_args(Replication):
        raise PyroLvmError(f"--replication {replication}: expected one of {', '.join(get_args(Replication))}")
    source = None if data is None else data_source(data, data_root, "none", drop, label, features)
    found = ppc_run(
        run,
        source,
        statistics=None if statistics is None else [name.strip() for name in statistics.split(",")],
        num_draws=draws,
        num_rows=rows,
        replication=cast(Replication, replication),
        refits=refits,
        refit_steps=refit_steps,
        out=out,
        root=None if data is not None else data_root,
        pair=pair,
        device=device,
        seed=seed,
        progress=not (quiet or as_json),
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    elif not quiet:
        looked_at = f"{found.check.num_rows:,} {found.rows} rows"
        if found.check.num_rows < found.total_rows:
            looked_at += f" at random of {found.total_rows:,}"
        Console().print(predictive_table(found.check, looked_at))
        print(f"saved in {found.written[0].parent}: {', '.join(path.name for path in found.written)}")
