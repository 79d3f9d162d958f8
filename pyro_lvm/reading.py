"""A saved run read back: its pair on a device, and the rows it was trained on or others like them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from pyro_lvm import artifact, catalogue, data
from pyro_lvm.artifact import Artifact
from pyro_lvm.errors import ArtifactError, DataError
from pyro_lvm.fitting import choose_device, hold_out
from pyro_lvm.pair import Pair
from pyro_lvm.source import DataSource

# Rows of a stream that are read at a time, where training had no batches.
_SWEEP_ROWS = 8192


@dataclass(frozen=True)
class LoadedRun:
    """A saved run, ready to be used.

    Attributes:
        name: What the run was called.
        artifact: The run as it was saved.
        pair: Its pair, on the device.
        source: Where its own rows come from.
        scaling: How rows are scaled for the pair.
        dataset: The rows, in the data's units: the run's own, or those that were given instead.
        given: Whether they were given.
    """

    name: str
    artifact: Artifact
    pair: Pair
    source: DataSource
    scaling: data.Scaling
    dataset: data.Dataset
    given: bool

    @property
    def method(self) -> str:
        """How it was fitted: ``svi``, ``em`` or ``closed``."""
        return str(self.artifact.config["training"].get("method", "svi"))

    @property
    def seed(self) -> int:
        """Seed of its training."""
        return int(self.artifact.config["training"]["seed"])

    @property
    def num_training_rows(self) -> int:
        """How many rows it was trained on, which scale what rows share."""
        total = int(self.artifact.config["data"]["shape"][0])
        return total - round(total * (self._validation or 0.0))

    @property
    def _validation(self) -> float | None:
        fraction: float | None = self.artifact.config["training"].get("validation")
        return fraction

    @property
    def given_its_own(self) -> bool:
        """Whether the rows that were given are those that it was made from."""
        return self.given and digest(self.dataset.rows) == self.artifact.config["data"]["sha256"]

    def parts(self) -> tuple[Tensor, Tensor | None]:
        """Of the run's own rows, those that it was trained on, and those that were held out, if any."""
        training, held_out, _ = hold_out(self.dataset.rows, self._validation, self.seed)
        return training, held_out

    def judged(self) -> tuple[str, Tensor]:
        """Which rows the run is judged on, and they: those given, else those held out, else those of its training.

        Rows that are given are held out, unless they are the run's own.
        """
        if self.given:
            return "training" if self.given_its_own else "held-out", self.dataset.rows
        training, held_out = self.parts()
        return ("training", training) if held_out is None else ("held-out", held_out)

    def others(self, source: DataSource) -> data.Dataset:
        """Rows of another source that the run's pair takes.

        Raises:
            DataError: They lack some of its features, or have others.
        """
        return load_others(self.name, self.artifact, self.source, source)


def load_run(
    run: str | Path | LoadedRun,
    source: DataSource | None = None,
    *,
    root: str | None = None,
    pair: str | None = None,
    device: str = "auto",
) -> LoadedRun:
    """Read a run with its own rows, or with others.

    Args:
        run: The folder; or a run that is read already, which is given back, with the other rows if there are any.
        source: Other rows; None for the run's own.
        root: Another folder of the run's own named data set.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        device: Where to compute.

    Raises:
        PyroLvmError: The run or the rows can't be read, the rows have other features, or the run's own rows are no
            longer what it was trained on.
    """
    if isinstance(run, LoadedRun):
        return run if source is None else replace(run, dataset=run.others(source), given=True)
    saved, own, scaling = read_run(run, pair=pair)
    own = own if root is None else replace(own, root=root)
    dataset = load_own(run, saved, own) if source is None else load_others(run, saved, own, source)
    # Parameters that appear when the pair first runs must do so before it moves to its device.
    complete = dataset.rows[~dataset.rows.isnan().any(1)][:2]
    saved.pair.materialize(scaling.transform(complete if len(complete) else dataset.rows[:2]))
    saved.pair.to(choose_device(device))
    return LoadedRun(str(run), saved, saved.pair, own, scaling, dataset, source is not None)


def load_own(run: str | Path, saved: Artifact, source: DataSource) -> data.Dataset:
    """Read the rows that a run was trained on.

    Args:
        run: What the run is called.
        saved: The run.
        source: Where its rows come from.

    Raises:
        PyroLvmError: They can't be read, or are no longer what the run was trained on.
    """
    dataset = _load(saved, source)
    recorded = saved.config["data"]
    if digest(dataset.rows) != recorded["sha256"]:
        raise ArtifactError(
            f"the data '{source.reference}', now {tuple(dataset.rows.shape)} rows by features, is not what '{run}' was "
            f"trained on, {tuple(recorded['shape'])}: restore it, or point --data-root at the folder that holds it"
        )
    return dataset


def read_run(run: str | Path, *, pair: str | None = None) -> tuple[Artifact, DataSource, data.Scaling]:
    """Read a run, where its rows came from, and how they were scaled.

    Args:
        run: The folder.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.

    Raises:
        PyroLvmError: The run can't be read, or its pair isn't at hand.
    """
    saved = artifact.load(run, spec=None if pair is None else catalogue.find(pair))
    try:
        source = DataSource.from_config(saved.config["data"])
        scaling = data.Scaling.from_config(saved.config["scaling"])
        _, data_dim = saved.config["data"]["shape"]
        _ = saved.config["data"]["sha256"], saved.config["training"]["seed"], range(data_dim)
        _ = list(saved.config.get("features") or ())
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"'{run}' is damaged: its configuration lacks something, or has it of the wrong kind ({error}): restore "
            "config.json or fit again"
        ) from error
    return saved, source, scaling


def digest(rows: Tensor) -> str:
    """What tells rows from others."""
    return hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest()


def _load(saved: Artifact, source: DataSource) -> data.Dataset:
    trained = saved.config["training"]
    return source.load(trained.get("batch_size") or _SWEEP_ROWS, trained["seed"])[0]


def load_others(run: str | Path, saved: Artifact, own: DataSource, source: DataSource) -> data.Dataset:
    """Read rows of another source that a run's pair takes; of a table with other columns, those that it knows.

    Args:
        run: What the run is called.
        saved: The run.
        own: Where its own rows come from.
        source: Where the others do.

    Raises:
        DataError: They can't be read, lack some of the run's features, or have others.
    """
    if own.binarize != "none":
        # Rows of the same kind as the pair was trained on, or their nats would mean something else.
        source = replace(source, binarize="static")
    names = saved.config.get("features")
    chosen = "features" in source.options
    dataset = _by_columns(saved, source, names) if names and not chosen else _load(saved, source)
    expected = saved.config["data"]["shape"][1]
    if dataset.data_dim != expected:
        raise DataError(
            f"'{source.reference}' has {dataset.data_dim} features, but '{run}' was trained on {expected}: give rows "
            "with the same features"
        )
    if names and dataset.feature_names and list(dataset.feature_names) != names:
        raise DataError(
            f"'{source.reference}' has the columns {', '.join(dataset.feature_names[:6])}, but '{run}' was trained on "
            f"{', '.join(names[:6])}: choose and order them with --features"
        )
    return dataset


def _by_columns(saved: Artifact, source: DataSource, names: list[str]) -> data.Dataset:
    """The columns of these names; as the source has them by itself, where that can be read and they aren't there."""
    try:
        return _load(saved, replace(source, options={**source.options, "features": names}))
    except DataError as error:
        try:
            return _load(saved, source)
        except DataError:
            raise error from None
