"""Whole runs, as the command line makes them: load, fit, grade, save; and read back, grade again."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_lvm import artifact, catalogue, data
from pyro_lvm.artifact import Artifact
from pyro_lvm.errors import ArtifactError
from pyro_lvm.fitting import FitResult, choose_device, fit, hold_out
from pyro_lvm.grading import Grade, grade
from pyro_lvm.pair import Pair

_VERSIONED = ("pyro_lvm", "torch", "pyro-ppl", "numpy")


@dataclass(frozen=True)
class DataSource:
    """Where rows come from: what :func:`pyro_lvm.data.load` is given.

    Args:
        reference: Name of a data set, or a file.
        root: Folder of a named data set's files.
        options: The loader's other arguments, plain JSON.
    """

    reference: str = "digits"
    root: str | None = None
    options: Mapping[str, Any] | None = None

    def load(self) -> data.Dataset:
        """Read the rows."""
        return data.load(self.reference, root=self.root, **dict(self.options or {}))


@dataclass
class Run:
    """What a run gives: the pair, its grades, and all figures as plain JSON.

    Attributes:
        pair: The trained pair.
        dataset: The rows, held-out ones included.
        train_rows: The rows trained on.
        training: Grade on them.
        held_out: Grade on held-out rows, or None.
        metrics: All figures.
        fitted: What training returned; None for a run that was read back.
        artifact: The run as it was saved; None for one that was not read back.
    """

    pair: Pair
    dataset: data.Dataset
    train_rows: Tensor
    training: Grade
    held_out: Grade | None
    metrics: dict[str, Any]
    fitted: FitResult | None = None
    artifact: Artifact | None = None


def fit_run(
    reference: str,
    source: DataSource,
    *,
    guide: str | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    force: bool = False,
    seed: int = 0,
    **training: Any,
) -> Run:
    """Build a pair, train it on data, grade it and save it.

    Args:
        reference: Name of the pair, or ``FILE.py:MODEL,GUIDE``.
        source: The data.
        guide: Name of the guide; None for the pair's default.
        options: The pair's other options.
        out: Folder to save the run in; None saves nothing.
        force: Replace a run that is there.
        seed: Of everything random.
        **training: Arguments of :func:`pyro_lvm.fit`, ``validation`` as a fraction.

    Returns:
        The run.

    Raises:
        PyroLvmError: Anything given is unusable; nothing that was saved before is touched.
    """
    if out is not None:
        # Before the work, not after it.
        artifact.check_out(out, force=force)
    spec = catalogue.find(reference)
    dataset = source.load()
    pair = catalogue.build(spec, facts_of(dataset), guide=guide, options=options, seed=seed)
    fitted = fit(pair.model, pair.guide, dataset.rows, pair=pair, seed=seed, **training)
    train_rows, held_out_rows, _ = hold_out(dataset.rows, training.get("validation"), seed)
    grades = _grades(pair, train_rows, held_out_rows)
    metrics = {
        **_figures(*grades),
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        "stopped": fitted.stopped,
        "device": fitted.device,
        "pair": reference,
        "guide": pair.config["guide"],
        "data": source.reference,
        "seed": seed,
    }
    if out is not None:
        kept = {k: v for k, v in training.items() if isinstance(v, (int, float, str, bool, type(None)))}
        config = {
            "data": {
                "reference": source.reference,
                "root": source.root,
                "options": dict(source.options or {}),
                "shape": list(dataset.rows.shape),
                "sha256": _digest(dataset.rows),
            },
            "training": {"seed": seed, **kept},
            "versions": {name: version(name) for name in _VERSIONED} | {"python": platform.python_version()},
        }
        artifact.save(out, pair, config=config, history=fitted.history, metrics=metrics, force=force)
    return Run(pair, dataset, train_rows, *grades, metrics=metrics, fitted=fitted)


def evaluate_run(
    run: str | Path,
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
    saved = artifact.load(run, spec=None if pair is None else catalogue.find(pair))
    recorded = saved.config["data"]
    own = DataSource(recorded["reference"], root if root is not None else recorded["root"], recorded["options"])
    dataset = own.load()
    if _digest(dataset.rows) != recorded["sha256"]:
        raise ArtifactError(
            f"the data '{own.reference}', now {tuple(dataset.rows.shape)} rows by features, is not what '{run}' was "
            f"trained on, {tuple(recorded['shape'])}: restore it, or point --data-root at the folder that holds it"
        )
    trained = saved.config["training"]
    train_rows, held_out_rows, _ = hold_out(dataset.rows, trained.get("validation"), trained["seed"])
    if source is not None:
        dataset = source.load()
        held_out_rows = dataset.rows
        if held_out_rows.shape[1:] != train_rows.shape[1:]:
            raise ArtifactError(
                f"'{source.reference}' has {held_out_rows.shape[1]} features, but '{run}' was trained on "
                f"{train_rows.shape[1]}: evaluate on rows with the same features"
            )
    target = choose_device(device)
    saved.pair.to(target)
    grades = _grades(saved.pair, train_rows, held_out_rows)
    metrics = {**saved.metrics, **_figures(*grades), "device": str(target)}
    return Run(saved.pair, dataset, train_rows, *grades, metrics=metrics, artifact=saved)


def facts_of(dataset: data.Dataset) -> dict[str, Any]:
    """What the makers of a pair may ask of the data."""
    shape = dataset.image_shape
    return {"data_dim": dataset.data_dim, "image_shape": None if shape is None else list(shape)}


def _grades(pair: Pair, train_rows: Tensor, held_out_rows: Tensor | None) -> tuple[Grade, Grade | None]:
    training = grade(pair, train_rows)
    return training, None if held_out_rows is None else grade(pair, held_out_rows, train_rows=train_rows)


def _figures(training: Grade, held_out: Grade | None) -> dict[str, Any]:
    return {**training.to_json(), "held_out": None if held_out is None else held_out.to_json()}


def _digest(rows: Tensor) -> str:
    return hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest()
