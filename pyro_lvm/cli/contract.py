"""``pyro-lvm list`` and ``pyro-lvm check``: which pairs there are, and whether one keeps its contract."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pyro_lvm.cli.options import (
    ComponentsArg,
    DropArg,
    EstimatorArg,
    FeaturesArg,
    FileArg,
    GuideArg,
    JsonArg,
    LabelArg,
    LatentArg,
    OptionArg,
    QuietArg,
    RootArg,
    ScaleArg,
    data_source,
    pair_options,
)

if TYPE_CHECKING:
    from pyro_lvm import catalogue


def list_pairs(as_json: JsonArg = False, quiet: QuietArg = False) -> None:
    """List the installed pairs, their guides and their options.

    Example: `pyro-lvm list --json`
    """
    from pyro_lvm import catalogue

    specs = [catalogue.find(name) for name in catalogue.names()]
    if as_json:
        listed = [
            {"name": s.name, "guides": list(s.guides), "options": _option_names(s), "summary": s.summary} for s in specs
        ]
        print(json.dumps({"pairs": listed}, indent=2))
    elif not quiet:
        table = Table(title="pairs")
        for heading in ("name", "guides (default first)", "options", "what it is"):
            table.add_column(heading)
        for spec in specs:
            table.add_row(spec.name, ", ".join(spec.guides), ", ".join(_option_names(spec)), spec.summary)
        Console().print(table)


def check_command(
    pair: Annotated[str, typer.Argument(help="Folder of a run, name of a pair, or FILE.py:MODEL,GUIDE.")],
    data: Annotated[str | None, typer.Option("--data", help="Rows to check on: a name or a file.")] = None,
    data_root: RootArg = None,
    scale: ScaleArg = "none",
    drop: DropArg = None,
    label: LabelArg = None,
    features: FeaturesArg = None,
    latent_dim: LatentArg = None,
    components: ComponentsArg = None,
    estimator: EstimatorArg = None,
    guide: GuideArg = None,
    option: OptionArg = None,
    file: FileArg = None,
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Check that a model and a guide keep the contract of a pair, with one line for each thing that is wrong.

    Exits 2 if there is an error among the findings.

    Examples:

    - `pyro-lvm check my_pair.py:model,guide --data table.csv`

    - `pyro-lvm check ppca --guide diagonal`

    - `pyro-lvm check runs/ppca`
    """
    from pyro_lvm.runs import check_run

    source = None if data is None else data_source(data, data_root, scale, drop, label, features)
    result = check_run(
        pair,
        source,
        pair=file,
        guide=guide,
        options=pair_options(option, latent_dim=latent_dim, num_components=components, estimator=estimator),
    )
    if as_json:
        print(json.dumps({"ok": result.ok, "findings": [vars(finding) for finding in result]}, indent=2))
    elif not quiet:
        Console().print(result)
    if not result.ok:
        raise typer.Exit(2)


def _option_names(spec: catalogue.PairSpec) -> list[str]:
    return [name for name in spec.options() if name not in ("data_dim", "image_shape")]
