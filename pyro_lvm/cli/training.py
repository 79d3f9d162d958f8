"""``pyro-lvm fit`` and ``pyro-lvm evaluate``: runs, made and graded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.console import Console

from pyro_lvm.cli.objective import (
    OBJECTIVE_OPTIONS,
    BetaArg,
    BoundArg,
    ClipArg,
    DecayArg,
    FreeBitsArg,
    PatienceArg,
    WarmupArg,
    objective,
)
from pyro_lvm.cli.options import (
    BinarizeArg,
    ComponentsArg,
    DataArg,
    DeviceArg,
    DropArg,
    EstimatorArg,
    FeaturesArg,
    FileArg,
    GuideArg,
    JsonArg,
    LabelArg,
    LatentArg,
    LikelihoodArg,
    OptionArg,
    QuietArg,
    RootArg,
    RunArg,
    ScaleArg,
    data_source,
    pair_options,
    typed,
)
from pyro_lvm.errors import PyroLvmError

if TYPE_CHECKING:
    from pyro_lvm.runs import Run


# What says how a run is shown or taken up, and nothing of the run.
_NOT_REPEATED = ("force", "resume", "as_json", "quiet")


def fit_command(
    context: typer.Context,
    pair: Annotated[str, typer.Argument(help="Name of a pair (see `pyro-lvm list`), or FILE.py:MODEL,GUIDE.")],
    data: DataArg = "digits",
    method: Annotated[
        str, typer.Option(help="svi (gradients), em or closed (exact maximum likelihood, where the pair has it).")
    ] = "svi",
    data_root: RootArg = None,
    scale: ScaleArg = "none",
    binarize: BinarizeArg = "none",
    drop: DropArg = None,
    label: LabelArg = None,
    features: FeaturesArg = None,
    stream: Annotated[
        bool | None, typer.Option(help="Read an NPY or Parquet file in batches; else if need be.")
    ] = None,
    latent_dim: LatentArg = None,
    components: ComponentsArg = None,
    estimator: EstimatorArg = None,
    likelihood: LikelihoodArg = None,
    guide: GuideArg = None,
    option: OptionArg = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps; without one, until converged.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Budget in passes over the data, instead of --steps.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows a step.")] = 256,
    lr: Annotated[float | None, typer.Option(help="First learning rate; the pair has a default.")] = None,
    decay: DecayArg = None,
    particles: Annotated[int, typer.Option(help="Monte Carlo draws a row and step.")] = 1,
    bound: BoundArg = "elbo",
    beta: BetaArg = 1.0,
    warmup: WarmupArg = 0,
    free_bits: FreeBitsArg = 0.0,
    clip_norm: ClipArg = None,
    train: Annotated[str, typer.Option(help="both, guide (the variational E-step) or model (the M-step).")] = "both",
    validation: Annotated[
        float | None, typer.Option(help="Fraction of rows to hold out, to grade on and to stop early.")
    ] = None,
    patience: PatienceArg = 5,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: DeviceArg = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder to save the run in.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is already in --out.")] = False,
    checkpoint_every: Annotated[
        float | None, typer.Option(help="Seconds between checkpoints, beside --out, for --resume.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the last checkpoint of --out was.")] = False,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Trace and compile the steps; else where it pays.")
    ] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Save figures beside the run, in --out.")] = False,
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Train a pair on data, grade it against the exact answers, and save the run.

    Examples:

    - `pyro-lvm fit ppca --data digits --latent-dim 8 --seed 0 --out runs/ppca`

    - `pyro-lvm fit ppca --guide diagonal --steps 20000 --validation 0.1 --json`

    - `pyro-lvm fit ppca --method em --data holes.csv --scale standard --out runs/em`

    - `pyro-lvm fit mixture-ppca --components 10 --latent-dim 4 --estimator score`

    - `pyro-lvm fit vae --data digits --latent-dim 2 --figures --out runs/vae`

    - `pyro-lvm fit vae --data mnist --data-root DIR --binarize dynamic --likelihood bernoulli --epochs 100`

    - `pyro-lvm fit my_pair.py:model,guide --data table.csv --label species --scale standard --epochs 50`

    - `pyro-lvm fit ppca --data big.npy --out runs/big --checkpoint-every 60`, and `--resume` after a power cut
    """
    from pyro_lvm.artifact import METRICS
    from pyro_lvm.runs import Method, fit_run

    if method not in get_args(Method):
        raise PyroLvmError(f"--method {method}: expected one of {', '.join(get_args(Method))}")
    if method != "svi":
        _refuse_options_of_svi(context, method)
    if figures and out is None:
        raise PyroLvmError("--figures needs a folder to write to: add --out, as in --out runs/ppca")
    if (checkpoint_every is not None or resume) and out is None:
        raise PyroLvmError("--checkpoint-every and --resume need --out: the checkpoint lies beside it")
    checkpoint = None if out is None or not (resume or checkpoint_every is not None) else Path(f"{out}.checkpoint")
    if checkpoint is not None and checkpoint.exists() and not (resume or force):
        raise PyroLvmError(f"'{checkpoint}' is there to go on from: add --resume, or --force to begin anew")
    training: dict[str, Any] = {"steps": steps, "validation": validation, "device": device}
    if method == "svi":
        training |= {
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "decay": decay,
            "particles": particles,
            "elbo": objective(bound, particles, beta, warmup, free_bits),
            "clip_norm": clip_norm,
            "patience": patience,
            "train": train,
            "checkpoint": checkpoint,
            "checkpoint_every": 60.0 if checkpoint_every is None else checkpoint_every,
            "resume": resume,
            "compile": "auto" if compile is None else compile,
        }
    run = fit_run(
        pair,
        data_source(data, data_root, scale, drop, label, features, stream, binarize),
        method=cast(Method, method),
        guide=guide,
        options=pair_options(
            option, latent_dim=latent_dim, num_components=components, estimator=estimator, likelihood=likelihood
        ),
        out=out,
        # The run that Ctrl-C saved is the one that is taken up.
        force=force or (resume and checkpoint is not None and checkpoint.exists()),
        seed=seed,
        progress=not (quiet or as_json),
        command=typed(context, _NOT_REPEATED),
        **training,
    )
    if checkpoint is not None and run.metrics["stopped"] != "interrupted":
        # What the run could be resumed from would only resume what is finished.
        checkpoint.unlink(missing_ok=True)
    written = _figures(run, out) if figures and out is not None else []
    _show(run, as_json, quiet)
    if out is not None and not (as_json or quiet):
        names = ", ".join([METRICS, *(path.name for path in written)])
        print(f"saved in {out}: {names}")


def evaluate_command(
    run: RunArg,
    data: Annotated[str | None, typer.Option("--data", help="Other rows to grade on, as held-out ones.")] = None,
    data_root: RootArg = None,
    drop: DropArg = None,
    label: LabelArg = None,
    features: FeaturesArg = None,
    pair: FileArg = None,
    device: DeviceArg = "auto",
    as_json: JsonArg = False,
    quiet: QuietArg = False,
) -> None:
    """Read a run back and grade it again.

    Examples:

    - `pyro-lvm evaluate runs/ppca`

    - `pyro-lvm evaluate runs/ppca --data new_rows.csv --json`
    """
    from pyro_lvm.runs import evaluate_run

    source = None if data is None else data_source(data, data_root, "none", drop, label, features)
    result = evaluate_run(run, source, root=None if data is not None else data_root, pair=pair, device=device)
    _show(result, as_json, quiet)


def _refuse_options_of_svi(context: typer.Context, method: str) -> None:
    """Refuse what was given to no effect."""
    useless = ["epochs", "batch_size", "lr", "particles", "train", "checkpoint_every", "resume", "compile"]
    useless += OBJECTIVE_OPTIONS
    useless += ["steps"] if method == "closed" else []
    for name in useless:
        # By name: which click it is of depends on the release of typer.
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
            raise PyroLvmError(
                f"--{name.replace('_', '-')} is for training by gradients, not for --method {method}: leave it out"
            )


def _show(run: Run, as_json: bool, quiet: bool) -> None:
    from pyro_lvm.tables import grade_table

    if as_json:
        print(json.dumps(run.metrics, indent=2))
    elif not quiet:
        m = run.metrics
        guide = f" ({run.guide})" if run.guide else ""
        Console().print(grade_table(run.training, run.held_out, title=f"{m['pair']}{guide} on {m['data']}"))
        steps = "" if m["stopped"] == "closed form" else f" after {m['steps']} step{'s' * (m['steps'] != 1)}"
        print(f"{m['stopped']}{steps}, {m['seconds']:.1f} s on {m['device']}")
        if m.get("rows_left_out"):
            print(
                f"graded on complete rows: the {m['rows_left_out']} others are in the fit, but the guide can't take "
                "missing entries"
            )
        if run.training.elbo_agrees is False:
            print("warning: the estimated ELBO is not log-evidence minus KL: one of the model's exact answers is wrong")


def _figures(run: Run, out: Path) -> list[Path]:
    from pyro_lvm.figures import save_figures

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
