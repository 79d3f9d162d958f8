"""``pyro-lvm sample`` and ``pyro-lvm reconstruct``: what a run makes up, and what it makes of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pyro_lvm.cli.options import (
    DeviceArg,
    DropArg,
    FeaturesArg,
    FileArg,
    ForceArg,
    JsonArg,
    LabelArg,
    QuietArg,
    RootArg,
    RunArg,
    data_source,
)

_OutArg = Annotated[
    Path, typer.Option("--out", help="File to write: .csv, .parquet or .npy for a table, .png for a picture.")
]


def sample_command(
    run: RunArg,
    out: _OutArg,
    count: Annotated[int, typer.Option(help="How many rows.")] = 100,
    near_class: Annotated[str | None, typer.Option(help="Where the run's rows of this label are.")] = None,
    near_row: Annotated[int | None, typer.Option(help="Where this row of the run's data is, counted from 0.")] = None,
    mean: Annotated[
        bool, typer.Option("--mean", help="What the latents decode to, without the noise around it.")
    ] = False,
    data_root: RootArg = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    force: ForceArg = False,
    pair: FileArg = None,
    device: DeviceArg = "auto",
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Draw new rows from a run's model: anywhere under its prior, or near the rows of a class or one row.

    Examples:

    - `pyro-lvm sample runs/ppca --out new.csv --count 1000`

    - `pyro-lvm sample runs/vae --near-class 3 --mean --out threes.png`
    """
    from pyro_lvm.generating import sample_run

    rows = sample_run(
        run,
        out,
        count=count,
        near_class=near_class,
        near_row=near_row,
        mean=mean,
        root=data_root,
        pair=pair,
        device=device,
        seed=seed,
        force=force,
    )
    if as_json:
        print(json.dumps({"num_rows": len(rows), "data_dim": rows.shape[1]}, indent=2))
    elif not quiet:
        print(f"saved {len(rows)} new rows in {out}")


def reconstruct_command(
    run: RunArg,
    out: _OutArg,
    data: Annotated[str | None, typer.Option("--data", help="Other rows; else the run's own.")] = None,
    data_root: RootArg = None,
    drop: DropArg = None,
    label: LabelArg = None,
    features: FeaturesArg = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of images.")] = 0,
    force: ForceArg = False,
    pair: FileArg = None,
    device: DeviceArg = "auto",
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Take rows through a run's latent space and back: what the posterior mean of each row's latents decodes to.

    Examples:

    - `pyro-lvm reconstruct runs/vae --out pairs.png`

    - `pyro-lvm reconstruct runs/ppca --data new_rows.csv --out rebuilt.csv --json`
    """
    from pyro_lvm.generating import reconstruct_run

    source = None if data is None else data_source(data, data_root, "none", drop, label, features)
    done = reconstruct_run(
        run,
        out,
        source,
        root=None if data is not None else data_root,
        pair=pair,
        device=device,
        seed=seed,
        force=force,
    )
    if as_json:
        print(json.dumps(vars(done), indent=2))
    elif not quiet:
        share = "" if done.r_squared is None else f", R² = {done.r_squared:.3f} of the features' variance"
        print(f"reconstructed {done.num_rows} rows{share}; saved in {out}")
