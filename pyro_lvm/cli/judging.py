"""``pyro-lvm evidence``, ``gap``, ``judge``, ``latent-map``: how likely rows are, whether the posterior is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast

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

TemperaturesArg = Annotated[int, typer.Option(help="Of annealing; its bound rises to log p(x) with them.")]
ChainsArg = Annotated[int, typer.Option(help="Of annealing, a row.")]


def evidence_command(
    run: RunArg,
    k: Annotated[int, typer.Option("--k", help="Particles a row; the bound rises to log p(x) with them.")] = 5000,
    rows: Annotated[
        int | None, typer.Option("--rows", help="As many rows at random; without it, all, or 100 with --ais.")
    ] = None,
    ais: Annotated[
        bool,
        typer.Option("--ais", help="Anneal as well, and bound the model's own rows from both sides."),
    ] = False,
    temperatures: TemperaturesArg = 1000,
    chains: ChainsArg = 16,
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
    """Estimate log p(x) of rows: ELBO, importance-weighted bound, exact where it is known, each with its errors.

    Examples:

    - `pyro-lvm evidence runs/ppca --k 1000`

    - `pyro-lvm evidence runs/vae --data test.npy --rows 500 --json`

    - `pyro-lvm evidence runs/vae --ais --rows 100`
    """
    from pyro_lvm.judging import evidence_run
    from pyro_lvm.tables import evidence_table

    source = None if data is None else data_source(data, data_root, "none", drop, label, features)
    result = evidence_run(
        run,
        source,
        k=k,
        num_rows=rows,
        ais=ais,
        temperatures=temperatures,
        chains=chains,
        root=None if data is not None else data_root,
        pair=pair,
        device=device,
        seed=seed,
        progress=not (quiet or as_json),
    )
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    elif not quiet:
        title = f"evidence of {result.elbo.num_rows} {result.rows} rows"
        Console().print(
            evidence_table(
                result.elbo, result.iwae, result.exact, result.terms, title, ais=result.ais, sandwich=result.sandwich
            )
        )


def gap_command(
    run: RunArg,
    rows: Annotated[int, typer.Option("--rows", help="As many rows at random of each kind.")] = 100,
    data: Annotated[str | None, typer.Option("--data", help="Other rows, in place of the run's held-out ones.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for a figure.")] = None,
    temperatures: TemperaturesArg = 1000,
    chains: ChainsArg = 16,
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
    """Take log p(x) - ELBO apart: what the guide's family lacks, and what its encoder misses; and what to do about it.

    Example: `pyro-lvm gap runs/vae --rows 200 --out runs/vae/gap`
    """
    from matplotlib.figure import Figure

    from pyro_lvm.judging import gap_run
    from pyro_lvm.plots import gap_bars
    from pyro_lvm.plots.files import write_figures
    from pyro_lvm.tables import gap_table

    source = None if data is None else data_source(data, data_root, "none", drop, label, features)
    result = gap_run(
        run,
        source,
        num_rows=rows,
        temperatures=temperatures,
        chains=chains,
        root=None if data is not None else data_root,
        pair=pair,
        device=device,
        seed=seed,
        progress=not (quiet or as_json),
    )
    written = []
    if out is not None:
        gaps = {"training": result.training, "held-out": result.held_out}
        axes = gap_bars({name: gap for name, gap in gaps.items() if gap is not None})
        written = write_figures(out, {"gap": cast(Figure, axes.figure)})
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    elif not quiet:
        Console().print(gap_table(result.training, result.held_out))
        if written:
            print(f"saved in {out}: {', '.join(path.name for path in written)}")


def judge_command(
    run: RunArg,
    full: Annotated[
        bool,
        typer.Option("--full/--quick", help="Smaller errors and fainter faults, in minutes; or in less than one."),
    ] = False,
    rows: Annotated[
        int | None,
        typer.Option("--rows", help="As many rows at random, for what is looked at row by row; else 50, or 100."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for figures.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Rows to judge it on, in place of the run's held-out ones.")
    ] = None,
    data_root: RootArg = None,
    drop: DropArg = None,
    label: LabelArg = None,
    features: FeaturesArg = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of rows and of all that is drawn.")] = 0,
    pair: FileArg = None,
    device: DeviceArg = "auto",
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Say how wrong the guide's posterior is, and whose fault that is: encoder, family or model. A verdict a line.

    Exits 2 where the pair breaks its contract, and nothing else was looked at.

    Examples:

    - `pyro-lvm judge runs/vae`

    - `pyro-lvm judge runs/vae --full --out runs/vae/judgement --json`
    """
    from pyro_lvm.judging import judge_run
    from pyro_lvm.tables import judgement_table

    source = None if data is None else data_source(data, data_root, "none", drop, label, features)
    result = judge_run(
        run,
        source,
        budget="full" if full else "quick",
        num_rows=rows,
        out=out,
        root=None if data is not None else data_root,
        pair=pair,
        device=device,
        seed=seed,
        progress=not (quiet or as_json),
    )
    found = result.judgement
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    elif not quiet:
        left_out = f", {result.left_out:,} with holes left out" if result.left_out else ""
        title = f"is the posterior right? {found.num_rows} {result.rows} rows{left_out}, {found.budget} budget"
        Console().print(judgement_table(found, title))
        if result.written:
            print(f"saved in {out}: {', '.join(path.name for path in result.written)}")
    if found["contract"].level == "bad":
        raise typer.Exit(2)


def latent_map_command(
    run: RunArg,
    out: Annotated[Path, typer.Option("--out", help="Folder for the figures.")],
    site: Annotated[str | None, typer.Option(help="Name of the latent, where a row has several.")] = None,
    neighbours: Annotated[int, typer.Option(help="Neighbours k that are to be kept.")] = 5,
    data_root: RootArg = None,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    pair: FileArg = None,
    device: DeviceArg = "auto",
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Draw a run's latent space, and say how well it keeps the neighbourhoods of its rows.

    Example: `pyro-lvm latent-map runs/ppca --out runs/ppca/latent`
    """
    from pyro_lvm.mapping import latent_run
    from pyro_lvm.tables import neighbourhoods_table

    result = latent_run(
        run, out, site=site, num_neighbours=neighbours, root=data_root, pair=pair, device=device, seed=seed
    )
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
    elif not quiet:
        Console().print(neighbourhoods_table(result.neighbourhoods))
        print(f"saved in {out}: {', '.join(path.name for path in result.written)}")
