"""The command line: ``pyro-lvm list | check | fit | evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Never, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from pyro_lvm import catalogue
from pyro_lvm.artifact import METRICS
from pyro_lvm.data import ScalingKind
from pyro_lvm.errors import PairError, PyroLvmError
from pyro_lvm.figures import save_figures
from pyro_lvm.runs import DataSource, Run, check_run, evaluate_run, fit_run
from pyro_lvm.tables import grade_table

# Some releases of typer bring a click of their own: its exceptions are reached through typer alone.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="pyro-lvm",
    help="Latent-variable models in Pyro whose amortized guides are graded against the truth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

_DataArg = Annotated[str, typer.Option("--data", help="Name of a data set (digits, mnist, ...) or a file.")]
_RootArg = Annotated[str | None, typer.Option("--data-root", help="Folder of a named data set's files.")]
_ScaleArg = Annotated[
    str, typer.Option("--scale", help="none, standard (each feature to mean 0, sd 1) or unit (0 to 1).")
]
_DropArg = Annotated[str | None, typer.Option("--drop", help="Columns of a table to leave out: A,B.")]
_LabelArg = Annotated[str | None, typer.Option("--label", help="Column of a table that holds labels, for the figures.")]
_FeaturesArg = Annotated[str | None, typer.Option("--features", help="Columns of a table to use: A,B; else all.")]
_GuideArg = Annotated[str | None, typer.Option(help="Name of the guide, as in full or diagonal for ppca.")]
_LatentArg = Annotated[int | None, typer.Option(help="Number of latent coordinates.")]
_OptionArg = Annotated[list[str] | None, typer.Option(help="Another option of the pair, NAME=VALUE; repeatable.")]
_FileArg = Annotated[str | None, typer.Option("--pair", help="FILE.py:MODEL,GUIDE, for a run of a pair of a file.")]
_DeviceArg = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
_JsonArg = Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object, and nothing else.")]
_QuietArg = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors (and JSON, if asked for).")]


@app.command("list")
def list_pairs(as_json: _JsonArg = False, quiet: _QuietArg = False) -> None:
    """List the installed pairs, their guides and their options.

    Example: `pyro-lvm list --json`
    """
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


@app.command("fit")
def fit_command(
    pair: Annotated[str, typer.Argument(help="Name of a pair (see `pyro-lvm list`), or FILE.py:MODEL,GUIDE.")],
    data: _DataArg = "digits",
    data_root: _RootArg = None,
    scale: _ScaleArg = "none",
    drop: _DropArg = None,
    label: _LabelArg = None,
    features: _FeaturesArg = None,
    stream: Annotated[
        bool | None, typer.Option(help="Read an NPY or Parquet file in batches; else if need be.")
    ] = None,
    latent_dim: _LatentArg = None,
    guide: _GuideArg = None,
    option: _OptionArg = None,
    steps: Annotated[int | None, typer.Option(help="Budget in gradient steps; without one, until converged.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Budget in passes over the data, instead of --steps.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows a step.")] = 256,
    lr: Annotated[float | None, typer.Option(help="First learning rate; the pair has a default.")] = None,
    particles: Annotated[int, typer.Option(help="Monte Carlo draws a row and step.")] = 1,
    train: Annotated[str, typer.Option(help="both, guide (the variational E-step) or model (the M-step).")] = "both",
    validation: Annotated[float | None, typer.Option(help="Fraction of rows to hold out, for early stopping.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: _DeviceArg = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder to save the run in.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is already in --out.")] = False,
    checkpoint_every: Annotated[
        float | None, typer.Option(help="Seconds between checkpoints, beside --out, for --resume.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the last checkpoint of --out was.")] = False,
    figures: Annotated[bool, typer.Option("--figures", help="Save figures beside the run, in --out.")] = False,
    as_json: _JsonArg = False,
    quiet: _QuietArg = False,
) -> None:
    """Train a pair on data, grade it against the exact answers, and save the run.

    Examples:

    - `pyro-lvm fit ppca --data digits --latent-dim 8 --seed 0 --out runs/ppca`

    - `pyro-lvm fit ppca --guide diagonal --steps 20000 --validation 0.1 --json`

    - `pyro-lvm fit my_pair.py:model,guide --data table.csv --label species --scale standard --epochs 50`

    - `pyro-lvm fit ppca --data big.npy --out runs/big --checkpoint-every 60`, and `--resume` after a power cut
    """
    if figures and out is None:
        raise PyroLvmError("--figures needs a folder to write to: add --out, as in --out runs/ppca")
    if (checkpoint_every is not None or resume) and out is None:
        raise PyroLvmError("--checkpoint-every and --resume need --out: the checkpoint lies beside it")
    checkpoint = None if out is None or not (resume or checkpoint_every is not None) else Path(f"{out}.checkpoint")
    if checkpoint is not None and checkpoint.exists() and not (resume or force):
        raise PyroLvmError(f"'{checkpoint}' is there to go on from: add --resume, or --force to begin anew")
    run = fit_run(
        pair,
        _source(data, data_root, scale, drop, label, features, stream),
        guide=guide,
        options=_options(option, latent_dim),
        out=out,
        # The run that Ctrl-C saved is the one that is taken up.
        force=force or (resume and checkpoint is not None and checkpoint.exists()),
        seed=seed,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        particles=particles,
        train=train,
        validation=validation,
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=60.0 if checkpoint_every is None else checkpoint_every,
        resume=resume,
        progress=not (quiet or as_json),
    )
    if checkpoint is not None and run.metrics["stopped"] != "interrupted":
        # What the run could be resumed from would only resume what is finished.
        checkpoint.unlink(missing_ok=True)
    written = _figures(run, out) if figures and out is not None else []
    _show(run, as_json, quiet)
    if out is not None and not (as_json or quiet):
        names = ", ".join([METRICS, *(path.name for path in written)])
        print(f"saved in {out}: {names}")


@app.command("evaluate")
def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run that `pyro-lvm fit --out` saved.")],
    data: Annotated[str | None, typer.Option("--data", help="Other rows to grade on, as held-out ones.")] = None,
    data_root: _RootArg = None,
    drop: _DropArg = None,
    label: _LabelArg = None,
    features: _FeaturesArg = None,
    pair: _FileArg = None,
    device: _DeviceArg = "auto",
    as_json: _JsonArg = False,
    quiet: _QuietArg = False,
) -> None:
    """Read a run back and grade it again.

    Examples:

    - `pyro-lvm evaluate runs/ppca`

    - `pyro-lvm evaluate runs/ppca --data new_rows.csv --json`
    """
    source = None if data is None else _source(data, data_root, "none", drop, label, features)
    result = evaluate_run(run, source, root=None if data is not None else data_root, pair=pair, device=device)
    _show(result, as_json, quiet)


@app.command("check")
def check_command(
    pair: Annotated[str, typer.Argument(help="Folder of a run, name of a pair, or FILE.py:MODEL,GUIDE.")],
    data: Annotated[str | None, typer.Option("--data", help="Rows to check on: a name or a file.")] = None,
    data_root: _RootArg = None,
    scale: _ScaleArg = "none",
    drop: _DropArg = None,
    label: _LabelArg = None,
    features: _FeaturesArg = None,
    latent_dim: _LatentArg = None,
    guide: _GuideArg = None,
    option: _OptionArg = None,
    file: _FileArg = None,
    as_json: _JsonArg = False,
    quiet: _QuietArg = False,
) -> None:
    """Check that a model and a guide keep the contract of a pair, with one line for each thing that is wrong.

    Exits 2 if there is an error among the findings.

    Examples:

    - `pyro-lvm check my_pair.py:model,guide --data table.csv`

    - `pyro-lvm check ppca --guide diagonal`

    - `pyro-lvm check runs/ppca`
    """
    source = None if data is None else _source(data, data_root, scale, drop, label, features)
    result = check_run(pair, source, pair=file, guide=guide, options=_options(option, latent_dim))
    if as_json:
        print(json.dumps({"ok": result.ok, "findings": [vars(finding) for finding in result]}, indent=2))
    elif not quiet:
        Console().print(result)
    if not result.ok:
        raise typer.Exit(2)


def main(arguments: list[str] | None = None) -> Never:
    """Run the command line; whatever a person can mend is one line on standard error and exit code 2."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except (PyroLvmError, _ClickException) as error:
        message = error.format_message() if isinstance(error, _ClickException) else str(error)
        if message:  # without a command, the help has been printed
            print(f"pyro-lvm: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"pyro-lvm: {error.strerror or error}: {str(error.filename or '')[:80]}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("pyro-lvm: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _show(run: Run, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps(run.metrics, indent=2))
    elif not quiet:
        m = run.metrics
        Console().print(
            grade_table(run.training, run.held_out, title=f"{m['pair']} ({m['guide']} guide) on {m['data']}")
        )
        print(f"{m['stopped']} after {m['steps']} steps, {m['seconds']:.1f} s on {m['device']}")
        if run.training.elbo_agrees is False:
            print("warning: the estimated ELBO is not log-evidence minus KL: one of the model's exact answers is wrong")


def _figures(run: Run, out: Path) -> list[Path]:
    assert run.fitted is not None
    d = run.dataset
    return save_figures(
        out,
        run.pair,
        run.scaling.transform(d.rows),
        run.fitted.history,
        run.training,
        labels=d.labels,
        label_names=d.label_names,
        feature_names=d.feature_names,
        image_shape=d.image_shape,
        inverse=run.scaling.inverse,
    )


def _option_names(spec: catalogue.PairSpec) -> list[str]:
    return [name for name in spec.options() if name not in ("data_dim", "image_shape")]


def _source(
    reference: str,
    root: str | None,
    scale: str,
    drop: str | None,
    label: str | None,
    features: str | None,
    streamed: bool | None = None,
) -> DataSource:
    named = {"drop": drop, "features": features}
    options: dict[str, Any] = {name: value.split(",") for name, value in named.items() if value is not None}
    if label is not None:
        options["label"] = label
    kinds = get_args(ScalingKind)
    if scale not in kinds:
        raise PyroLvmError(f"--scale {scale}: expected one of {', '.join(kinds)}")
    return DataSource(reference, root, options, cast(ScalingKind, scale), streamed)


def _options(given: list[str] | None, latent_dim: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {} if latent_dim is None else {"latent_dim": latent_dim}
    for text in given or []:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise PairError(f"--option {text}: expected NAME=VALUE, as in --option latent_dim=8")
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            options[name.replace("-", "_")] = value
    return options
