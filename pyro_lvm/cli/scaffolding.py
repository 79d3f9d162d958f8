"""``pyro-lvm new``: the files of a pair of one's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pyro_lvm.cli.options import JsonArg, QuietArg

if TYPE_CHECKING:
    from pyro_lvm.scaffold import NewPair


def new_command(
    name: Annotated[str, typer.Argument(help="Of the pair: small letters, digits and underscores.")],
    latent: Annotated[str, typer.Option(help="continuous (a linear map plus noise) or discrete (clusters).")] = (
        "continuous"
    ),
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Write the files of a new pair, which can be checked, fitted and evaluated at once; rewrite them from there.

    Inside a checkout of pyro_lvm: `models/NAME.py`, `guides/NAME.py`, their test, and the lines by which the pair is
    found. Anywhere else: `NAME.py` with both halves, and `test_NAME.py`. What is there is never overwritten.

    Examples:

    - `pyro-lvm new count_factors`

    - `pyro-lvm new customer_kinds --latent discrete`
    """
    from pyro_lvm.scaffold import LatentKind, new_pair

    made = new_pair(name, cast(LatentKind, latent))
    written, changed = ([os.path.relpath(path) for path in paths] for paths in (made.written, made.changed))
    if as_json:
        print(
            json.dumps(
                {"written": written, "changed": changed, "reference": _relative(made), "name": made.installed_name},
                indent=2,
            )
        )
    elif not quiet:
        reference, run, test = _relative(made), f"runs/{name}", written[-1]
        print(f"wrote {', '.join(written)}")
        if changed:
            print(f"changed {', '.join(changed)}")
        print(
            f"try it, with --data TABLE.csv for rows of your own:\n"
            f"    pyro-lvm check {reference}\n"
            f"    pyro-lvm fit {reference} --out {run}\n"
            f"    pyro-lvm evaluate {run} --pair {reference}\n"
            f"    pytest {test}"
        )
        if made.installed_name is not None:
            print(f"after `make install` its name is {made.installed_name}: pyro-lvm fit {made.installed_name}")


def _relative(made: NewPair) -> str:
    path, _, halves = made.reference.rpartition(":")
    return f"{os.path.relpath(Path(path))}:{halves}"
