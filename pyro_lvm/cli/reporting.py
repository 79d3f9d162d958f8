"""``pyro-lvm report``: a run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_lvm.cli.options import DeviceArg, FileArg, ForceArg, QuietArg, RootArg, RunArg


def report_command(
    run: RunArg,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; else report.html in the run.")] = None,
    data_root: RootArg = None,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    force: ForceArg = False,
    pair: FileArg = None,
    device: DeviceArg = "auto",
    quiet: QuietArg = False,
) -> None:
    """Write a run's page: what was fitted on what, its grades, its pictures, what to look at, and how to repeat it.

    It is one file of HTML that holds all it shows, to open in any browser or to send to someone.

    Example: `pyro-lvm report runs/ppca`
    """
    from pyro_lvm.reporting import report_run

    written = report_run(run, out, root=data_root, pair=pair, device=device, seed=seed, force=force, progress=not quiet)
    if not quiet:
        print(f"saved {written}")
