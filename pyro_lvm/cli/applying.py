"""``pyro-lvm impute`` and ``pyro-lvm embed``: what a run makes of a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pyro_lvm.cli.options import FileArg, ForceArg, JsonArg, QuietArg, RootArg, RunArg
from pyro_lvm.errors import PyroLvmError

if TYPE_CHECKING:
    from pyro_lvm.applying import PosteriorKind


def impute_command(
    run: RunArg,
    data: Annotated[Path, typer.Option("--data", help="Table with missing entries: text, Parquet or NPY.")],
    out: Annotated[Path, typer.Option("--out", help="File to write, of the same kind as --data.")],
    draws: Annotated[
        int | None, typer.Option(help="Draws from the conditional distribution; without it, its mean.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    force: ForceArg = False,
    pair: FileArg = None,
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Fill the missing entries of a table by what a run's model makes of the observed ones.

    Exactly where the model can; else, as of a variational autoencoder, by a Markov chain for each row. Columns, order
    and every observed cell stay as they are. With `--draws` the tables follow each other, numbered from 1 by a column
    `draw` in front; their spread is the uncertainty.

    Examples:

    - `pyro-lvm impute runs/em --data holes.csv --out filled.csv`

    - `pyro-lvm impute runs/em --data holes.csv --out draws.csv --draws 20 --seed 1`
    """
    from pyro_lvm.applying import impute_run

    done = impute_run(run, data, out, draws=draws, seed=seed, force=force, pair=pair, progress=not (quiet or as_json))
    if as_json:
        print(json.dumps(vars(done), indent=2))
    elif not quiet:
        if done.num_filled:
            text = f"filled {done.num_filled} entries in {done.num_rows_filled} of {done.num_rows} rows"
            if done.num_rows_unobserved:
                text += f", {done.num_rows_unobserved} of them with nothing observed"
        else:
            text = f"no entry is missing in {done.num_rows} rows: nothing to fill"
        drawn = "" if draws is None else f"{draws} draw{'s' * (draws != 1)} "
        print(f"{text}; saved {drawn}in {out}")


def embed_command(
    run: RunArg,
    out: Annotated[Path, typer.Option("--out", help="File to write: text or Parquet.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Rows to embed, a name or a file; else the run's own.")
    ] = None,
    data_root: RootArg = None,
    posterior: Annotated[str | None, typer.Option(help="exact or guide; exact where the model has it.")] = None,
    force: ForceArg = False,
    pair: FileArg = None,
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Write each row's latent coordinates: posterior means z1, z2, ... and standard deviations z1_sd, z2_sd, ...

    Columns of the table that the run doesn't use, such as a label, stand in front.

    Examples:

    - `pyro-lvm embed runs/ppca --out z.csv`

    - `pyro-lvm embed runs/ppca --data new_rows.csv --posterior guide --out z.csv`
    """
    from pyro_lvm.applying import embed_run

    if posterior not in (None, "exact", "guide"):
        raise PyroLvmError(f"--posterior {posterior}: expected exact or guide")
    kind = cast("PosteriorKind | None", posterior)
    progress = not (quiet or as_json)
    table = embed_run(run, out, data, root=data_root, posterior=kind, force=force, pair=pair, progress=progress)
    if as_json:
        print(json.dumps({"num_rows": len(table), "columns": list(table.columns)}, indent=2))
    elif not quiet:
        print(f"saved {len(table)} rows in {out}: {', '.join(table.columns)}")
