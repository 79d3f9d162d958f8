"""Whole runs, as the command line makes them: load, fit, grade, save; and read back, grade again."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from pyro_lvm import artifact, catalogue, data
from pyro_lvm.artifact import Artifact
from pyro_lvm.checking import CheckResult, check_pair
from pyro_lvm.checking.sites import samples
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.estimating import EM_OPTIONS, fit_by_estimator
from pyro_lvm.fitting import FitResult, default_validation, fit, hold_out
from pyro_lvm.grading import Grade, grade
from pyro_lvm.history import History
from pyro_lvm.pair import Pair, acceptable
from pyro_lvm.plate import feeding
from pyro_lvm.reading import LoadedRun, digest, load_others, load_run, read_run
from pyro_lvm.seeding import seeded
from pyro_lvm.source import DataSource
from pyro_lvm.tempering import TemperedELBO

# A batch to check on; more rows show nothing else.
_CHECKED_ROWS = 64
# Rows of a stream that EM reads at a time.
_SWEEP_ROWS = 8192
_VERSIONED = ("pyro_lvm", "torch", "pyro-ppl", "numpy")


Method = Literal["svi", "em", "closed"]
"""How a pair is fitted."""


@dataclass
class Run:
    """What a run gives: the pair, its grades, and all figures as plain JSON.

    Attributes:
        pair: The trained pair.
        dataset: The rows, held-out ones included, in their own units.
        scaling: How the rows were scaled for the pair.
        training: Grade on them.
        held_out: Grade on held-out rows, or None.
        metrics: All figures.
        fitted: What training returned; None for a run that was read back.
        artifact: The run as it was saved; None for one that was not read back.
    """

    pair: Pair
    dataset: data.Dataset
    scaling: data.Scaling
    training: Grade
    held_out: Grade | None
    metrics: dict[str, Any]
    fitted: FitResult | None = None
    artifact: Artifact | None = None

    @property
    def guide(self) -> str:
        """In words, which of the pair's guides; nothing of a pair in a file, whose name says it."""
        return "" if ".py:" in self.metrics["pair"] else f"{self.metrics['guide']} guide"


def fit_run(
    reference: str,
    source: DataSource,
    *,
    method: Method = "svi",
    guide: str | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    force: bool = False,
    seed: int = 0,
    command: str | None = None,
    **training: Any,
) -> Run:
    """Build a pair, fit it to data, grade it and save it.

    Args:
        reference: Name of the pair, or ``FILE.py:MODEL,GUIDE``.
        source: The data.
        method: ``"svi"`` trains both halves; ``"em"`` and ``"closed"`` put the model at the maximum of the likelihood
            and the guide at its exact posterior.
        guide: Name of the guide; None for the pair's default, of those that take missing entries where there are any.
        options: The pair's other options; for EM also its own, ``tol``, ``n_init`` and ``noise_floor``.
        out: Folder to save the run in; None saves nothing.
        force: Replace a run that is there.
        seed: Of everything random.
        command: What a person typed to have this, kept with the run.
        **training: Arguments of :func:`pyro_lvm.fit`, ``validation`` as a fraction; of
            :func:`pyro_lvm.estimating.fit_by_estimator` for the other methods.

    Returns:
        The run.

    Raises:
        PyroLvmError: Anything given is unusable; nothing that was saved before is touched.
    """
    if out is not None:
        # Before the work, not after it.
        artifact.check_out(out, force=force)
    spec = catalogue.find(reference)
    batch_size = training.get("batch_size", 256) if method == "svi" else _SWEEP_ROWS
    dataset, stream = source.load(batch_size, seed)
    if guide is None:
        guide = spec.default_guide(missing=dataset.num_missing > 0)
    own = dict(options or {})
    known = spec.options(guide)
    tuning = {name: own.pop(name) for name in EM_OPTIONS if method != "svi" and name in own and name not in known}
    pair = catalogue.build(spec, facts_of(dataset), guide=guide, options=own, seed=seed)
    if method == "svi" and training.get("validation") is None and not isinstance(stream, data.RowStream):
        training["validation"] = default_validation(pair.model, training.get("steps"), training.get("epochs"))
    train_rows, held_out_rows, _ = hold_out(dataset.rows, training.get("validation"), seed)
    # How the rows were read is part of the run: another machine may have more memory.
    source = replace(source, streamed=isinstance(stream, data.RowStream))
    scaling = data.Scaling.fit(train_rows, source.scale)
    if method == "svi":
        rows: Any = scaling.transform(dataset.rows) if stream is None else stream
        try:
            fitted = fit(pair.model, pair.guide, rows, pair=pair, seed=seed, **training)
        except PairError as error:
            if source.scale == "none" or not _observes_whole_numbers(pair, train_rows):
                raise
            raise PairError(
                f"the model observes whole numbers, which rows scaled by '{source.scale}' are not: leave out --scale "
                f"({error})"
            ) from error
    else:
        if isinstance(stream, data.GreyRows):
            raise DataError(
                f"binarizing dynamically is for training by gradients, not for {method}: binarize statically"
            )
        # Before the work, not after it.
        for some in (train_rows, held_out_rows):
            if some is not None:
                _gradable(pair, some)
        rows = scaling.transform(dataset.rows) if stream is None else stream
        fitted = fit_by_estimator(
            pair, rows, method=method, options=tuning, feature_names=dataset.feature_names, seed=seed, **training
        )
    _unscale_history(fitted.history, train_rows, scaling)
    grades = _grades(pair, train_rows, held_out_rows, scaling, method)
    metrics = {
        **_figures(*grades),
        "method": method,
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        "stopped": fitted.stopped,
        "converged": fitted.converged,
        "rows_left_out": len(train_rows) - grades[0].num_rows,
        "device": fitted.device,
        "pair": reference,
        "guide": pair.config["guide"],
        "data": source.reference,
        "scale": source.scale,
        "binarize": source.binarize,
        "seed": seed,
    }
    if out is not None:
        kept: dict[str, Any] = {k: v for k, v in training.items() if isinstance(v, (int, float, str, bool, type(None)))}
        kept.pop("checkpoint", None)
        if isinstance(training.get("elbo"), ELBO):
            kept["elbo"] = _describe(training["elbo"])
        config: dict[str, Any] = {
            "data": {**source.to_config(), "shape": list(dataset.rows.shape), "sha256": digest(dataset.rows)},
            "features": None if dataset.feature_names is None else list(dataset.feature_names),
            "scaling": scaling.to_config(),
            "training": {"seed": seed, **kept, "method": method, "batch_size": batch_size},
            "versions": {name: version(name) for name in _VERSIONED} | {"python": platform.python_version()},
        }
        if command is not None:
            config["command"] = command
        artifact.save(out, pair, config=config, history=fitted.history, metrics=metrics, force=force)
    return Run(pair, dataset, scaling, *grades, metrics=metrics, fitted=fitted)


def evaluate_run(
    run: str | Path | LoadedRun,
    source: DataSource | None = None,
    *,
    root: str | None = None,
    pair: str | None = None,
    device: str = "auto",
) -> Run:
    """Read a run and grade it again, on its own data or on other rows.

    Args:
        run: The folder.
        source: Other rows to grade on, reported as held out; None for the run's own data.
        root: Another folder of the run's own named data set.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        device: Where to compute.

    Returns:
        The run; ``steps`` and ``seconds`` among its metrics are its training's.

    Raises:
        PyroLvmError: The run or the data can't be read, or the data is not what the run was trained on.
    """
    loaded = load_run(run, root=root, pair=pair, device=device)
    dataset, (train_rows, held_out_rows) = loaded.dataset, loaded.parts()
    if source is not None:
        dataset = loaded.others(source)
        held_out_rows = dataset.rows
    grades = _grades(loaded.pair, train_rows, held_out_rows, loaded.scaling, loaded.method)
    metrics = {**loaded.artifact.metrics, **_figures(*grades), "device": str(loaded.pair.device)}
    return Run(loaded.pair, dataset, loaded.scaling, *grades, metrics=metrics, artifact=loaded.artifact)


def check_run(
    reference: str,
    source: DataSource | None = None,
    *,
    pair: str | None = None,
    guide: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> CheckResult:
    """Check the contract of a saved run's pair, or of one that is built for the purpose.

    Args:
        reference: Folder of a run, name of a pair, or ``FILE.py:MODEL,GUIDE``.
        source: The data; None for a run's own, else digits.
        pair: The pair's file, for a run of a pair that was defined in one.
        guide: Name of the guide.
        options: The pair's other options.
        seed: Of random initial parameters.

    Returns:
        The findings.

    Raises:
        PyroLvmError: What was given can't be read or built.
    """
    if Path(reference).is_dir():
        saved, own, scaling = read_run(reference, pair=pair)
        built = saved.pair
        dataset = own.load(_CHECKED_ROWS, seed)[0] if source is None else load_others(reference, saved, own, source)
        method = saved.config["training"].get("method", "svi")
        rows = scaling.transform(dataset.rows if method == "svi" else _gradable(built, dataset.rows))
    else:
        dataset, _ = (source or DataSource()).load(_CHECKED_ROWS, seed)
        rows = data.Scaling.fit(dataset.rows, (source or DataSource()).scale).transform(dataset.rows)
        spec = catalogue.find(reference)
        guide = guide or spec.default_guide(missing=dataset.num_missing > 0)
        built = catalogue.build(spec, facts_of(dataset), guide=guide, options=options, seed=seed)
        built.start(rows, torch.Generator().manual_seed(seed))
    num_rows = len(rows)
    return check_pair(built.model, built.guide, rows[:_CHECKED_ROWS], num_rows=num_rows, pair=built)


def facts_of(dataset: data.Dataset) -> dict[str, Any]:
    """What the makers of a pair may ask of the data."""
    shape = dataset.image_shape
    return {"data_dim": dataset.data_dim, "image_shape": None if shape is None else list(shape)}


def _grades(
    pair: Pair, train_rows: Tensor, held_out_rows: Tensor | None, scaling: data.Scaling, method: str
) -> tuple[Grade, Grade | None]:
    """Grades in nats of the data's own units: log p(x) = log p(scaled x) - log of the scaling's Jacobian."""
    scaled = scaling.transform(train_rows)

    def graded(rows: Tensor) -> Grade:
        rows = rows if method == "svi" else _gradable(pair, rows)
        return _unscaled(grade(pair, scaling.transform(rows), train_rows=scaled), rows, scaling)

    return graded(train_rows), None if held_out_rows is None else graded(held_out_rows)


def _observes_whole_numbers(pair: Pair, rows: Tensor) -> bool:
    """Whether the model of a pair that was refused draws counts or classes, so that rows may not be scaled."""
    try:
        with pair.evaluating(), poutine.block(), feeding(None), seeded(0):
            trace: Any = poutine.trace(pair.run_model).get_trace(rows[:_CHECKED_ROWS].nan_to_num().to(pair.device))
    except (ValueError, RuntimeError):
        return False
    return any(site["is_observed"] and site["fn"].support.is_discrete for site in samples(trace).values())


def _gradable(pair: Pair, rows: Tensor) -> Tensor:
    """The rows that the guide can take: EM needs none, so that one for complete rows may go with rows that are not."""
    accepted = rows[acceptable(pair, rows)]
    if len(rows) and not len(accepted):
        raise PairError(
            f"all {len(rows)} rows have missing entries, which the guide {type(pair.guide).__name__} cannot take: none "
            "is left to grade it on; use a guide that accepts missing entries"
        )
    return accepted


def _unscale_history(history: History, rows: Tensor, scaling: data.Scaling) -> None:
    """The history in nats of the data's own units, as everything else that a person sees."""
    shift = float(scaling.row_log_jacobian(rows).mean())
    for record in history.records:
        for name in ("elbo", "validation_elbo"):
            value = record[name]
            record[name] = None if value is None else value - shift


def _unscaled(graded: Grade, rows: Tensor, scaling: data.Scaling) -> Grade:
    shift = float(scaling.row_log_jacobian(rows).mean())
    densities = [name for name in vars(graded) if "evidence" in name or name in ("elbo", "elbo_exact")]
    values = {name: getattr(graded, name) for name in densities}
    return replace(graded, **{name: value - shift for name, value in values.items() if value is not None})


def _figures(training: Grade, held_out: Grade | None) -> dict[str, Any]:
    return {**training.to_json(), "held_out": None if held_out is None else held_out.to_json()}


def _describe(elbo: ELBO) -> dict[str, Any]:
    options = elbo.options() if isinstance(elbo, TemperedELBO) else {}
    return {"name": type(elbo).__name__, "num_particles": elbo.num_particles, **options}
