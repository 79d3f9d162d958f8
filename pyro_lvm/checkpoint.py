"""A training on disk, to be taken up again bit for bit: one file, written beside its place and then renamed."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_lvm.errors import ArtifactError

FORMAT = "pyro_lvm checkpoint 1"


def write(path: str | Path, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    """Write a checkpoint; one that is there is replaced in one step.

    Args:
        path: The file.
        tensors: What is kept as tensors.
        scalars: Everything else, plain JSON.

    Raises:
        ArtifactError: It can't be written; the old one, if any, is as it was.
    """
    path = Path(path)
    # Copies: tensors that share memory are refused, and those on a GPU can't be written.
    whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        save_file(whole, beside, metadata={"format": FORMAT, "scalars": json.dumps(scalars)})
        # A power cut must not leave the new name with nothing behind it.
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
        raise ArtifactError(
            f"writing the checkpoint '{path}' failed ({error}): free some space or name another"
        ) from error


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint. Nothing in it is executed.

    Returns:
        The tensors and the scalars that :func:`write` was given.

    Raises:
        ArtifactError: It is missing, damaged or foreign.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"no checkpoint '{path}' to resume from: start without resuming")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if metadata.get("format") != FORMAT:
            raise ArtifactError(f"'{path}' is no checkpoint of this version ('{FORMAT}'): start without resuming")
        return tensors, json.loads(metadata["scalars"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"the checkpoint '{path}' is damaged ({error}): start without resuming") from error


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of every random generator that Pyro seeds, as tensors and plain JSON."""
    state = pyro.util.get_rng_state()
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    kind, keys, position, has_gauss, gauss = state["numpy"]
    tensors["numpy"] = torch.from_numpy(keys.astype(np.int64))
    version, internal, gauss_next = state["random"]
    scalars = {
        "numpy": [kind, int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), gauss_next],
    }
    return tensors, scalars


def set_random_state(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    """Set what :func:`random_state` gave."""
    torch.set_rng_state(tensors["torch"])
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{i}"], i)
    kind, position, has_gauss, gauss = scalars["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss_next = scalars["python"]
    random.setstate((version, tuple(internal), gauss_next))
