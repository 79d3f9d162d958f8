"""A run on disk: weights, configuration, history and metrics, none of which can execute code when they are read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pyro_lvm import catalogue
from pyro_lvm.catalogue import PairSpec
from pyro_lvm.errors import ArtifactError
from pyro_lvm.history import History
from pyro_lvm.pair import Pair

FORMAT = "pyro_lvm run"
FORMAT_VERSION = 1
WEIGHTS, CONFIG, HISTORY, METRICS = "model.safetensors", "config.json", "history.csv", "metrics.json"


@dataclass
class Artifact:
    """A run as it was saved.

    Attributes:
        pair: The trained pair, on the CPU.
        config: How it came to be: the pair's configuration, the data, the options, the versions.
        history: The record of its training.
        metrics: What it was graded.
    """

    pair: Pair
    config: dict[str, Any]
    history: History
    metrics: dict[str, Any]


def check_out(out: str | Path, *, force: bool = False) -> Path:
    """Whether a run can be saved at ``out``, to be asked before the work is done.

    Args:
        out: The folder.
        force: Whether a run that is there may be replaced.

    Raises:
        ArtifactError: It exists (and ``force`` is off, or it is no run), or can't be written.
    """
    try:
        out = Path(out).resolve()
        there = out.exists()
    except OSError as error:
        raise ArtifactError(f"'{str(out)[:80]}' can't be a folder: {error.strerror or error}") from error
    if there and not out.is_dir():
        raise ArtifactError(f"'{out}' is a file: expected a folder that doesn't exist yet")
    if out.is_dir() and any(out.iterdir()):
        if not _is_run(out):
            raise ArtifactError(f"'{out}' exists and holds no run, so it won't be replaced: choose another --out")
        if not force:
            raise ArtifactError(f"'{out}' already holds a run: choose another --out, or replace it with --force")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise ArtifactError(f"can't write to '{out.parent}': {error.strerror or error}") from error
    return out


def save(
    out: str | Path,
    pair: Pair,
    *,
    config: Mapping[str, Any],
    history: History,
    metrics: Mapping[str, Any],
    force: bool = False,
) -> Path:
    """Write a run: ``model.safetensors``, ``config.json``, ``history.csv``, ``metrics.json``.

    It is written beside its place and then renamed, so that a run that is there survives whatever goes wrong.

    Args:
        out: The folder.
        pair: The pair; its ``config`` is saved along.
        config: What else tells how it came to be, plain JSON.
        history: The record of its training.
        metrics: What it was graded, plain JSON.
        force: Replace a run that is there.

    Raises:
        ArtifactError: ``out`` exists and ``force`` is off, or it can't be written.
    """
    out = check_out(out, force=force)
    full = {"format": FORMAT, "format_version": FORMAT_VERSION, "pair": pair.config, **config}
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in pair.state_dict().items()}
        save_file(tensors, beside / WEIGHTS)
        (beside / CONFIG).write_text(json.dumps(full, indent=2) + "\n")
        history.save(beside / HISTORY)
        (beside / METRICS).write_text(json.dumps(metrics, indent=2) + "\n")
        os.chmod(beside, 0o777 & ~_umask())
        _swap(beside, out)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"saving '{out}' failed ({error}): what was there before is as it was; free some space or choose another "
            "--out"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def load(run: str | Path, *, spec: PairSpec | None = None) -> Artifact:
    """Read a run. Nothing in it is executed.

    Args:
        run: The folder.
        spec: Makers of the pair, needed where it was defined in a file.

    Raises:
        ArtifactError: It is missing, damaged, foreign, or of a newer format.
        PairError: Its pair isn't installed.
    """
    run = Path(run)
    config = load_config(run)
    pair = catalogue.rebuild(config["pair"], spec)
    try:
        weights = load_file(run / WEIGHTS)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(
            f"'{run / WEIGHTS}' is missing, damaged or no safetensors file ({error}): nothing of it was executed; "
            "fit again or restore it"
        ) from error
    with torch.no_grad():
        pair.load_state_dict(weights)
    try:
        history = History.load(run / HISTORY)
        metrics = json.loads((run / METRICS).read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"'{run}' is damaged: its history or metrics can't be read ({error})") from error
    return Artifact(pair, config, history, metrics)


def load_config(run: str | Path) -> dict[str, Any]:
    """Read the configuration of a run alone.

    Raises:
        ArtifactError: It is missing, damaged, foreign, or of a newer format.
    """
    path = Path(run) / CONFIG
    if not path.is_file():
        raise ArtifactError(f"'{run}' holds no run: expected a folder with {CONFIG}, as `pyro-lvm fit --out` writes it")
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"'{path}' is damaged: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT or "pair" not in config:
        raise ArtifactError(f'\'{path}\' was not written by pyro_lvm: expected "format": "{FORMAT}"')
    version = config.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ArtifactError(
            f"'{run}' is of format {version}, newer than the {FORMAT_VERSION} that this version reads: update pyro_lvm"
        )
    return config


def _is_run(folder: Path) -> bool:
    try:
        load_config(folder)
    except ArtifactError as error:
        # A run of a newer version is a run; what only bears the file's name is not.
        return "newer than" in str(error)
    return True


def _swap(new: Path, out: Path) -> None:
    """Put ``new`` in the place of ``out``; what was there is moved aside first and removed last."""
    if not out.exists():
        os.rename(new, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    os.rename(out, old / out.name)
    try:
        os.rename(new, out)
    except OSError:
        os.rename(old / out.name, out)
        raise
    finally:
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
