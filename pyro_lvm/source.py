"""Where the rows of a run come from, as a run remembers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pyro_lvm import data
from pyro_lvm.batches import StreamBatches
from pyro_lvm.data import BinarizationKind, ScalingKind
from pyro_lvm.errors import DataError


@dataclass(frozen=True)
class DataSource:
    """Where rows come from: what :func:`pyro_lvm.data.load` is given, and how they are scaled.

    Args:
        reference: Name of a data set, or a file.
        root: Folder of a named data set's files.
        options: The loader's other arguments, plain JSON.
        scale: ``none``, ``standard`` or ``unit``; fitted to the training rows.
        streamed: Read batch by batch from the file, a memory-mapped NPY or Parquet; None does where it doesn't fit in
            memory.
        binarize: ``none``; ``static`` makes grey values zeros and ones once; ``dynamic`` trains on new ones in each
            batch and grades on one draw.
    """

    reference: str = "digits"
    root: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    scale: ScalingKind = "none"
    streamed: bool | None = None
    binarize: BinarizationKind = "none"

    def load(self, batch_size: int, seed: int) -> tuple[data.Dataset, data.RowStream | data.GreyRows | None]:
        """Read the rows, or what is graded of them and what batches come from."""
        path = Path(self.root or "") / self.reference
        streamed = self.streamed
        if streamed is None:
            can_stream = path.suffix in (".npy", ".parquet") and path.is_file()
            streamed = can_stream and not data.fits_in_memory(path)
        if not streamed:
            dataset = data.load(self.reference, root=self.root, **self.options)
            return (dataset, None) if self.binarize == "none" else self._binarized(dataset, seed)
        if self.binarize != "none":
            raise DataError(f"binarizing '{self.binarize}' of a stream: binarize the file's rows beforehand")
        if self.scale != "none":
            raise DataError(f"scaling '{self.scale}' of a stream: scale the file's rows beforehand, or use none")
        features = self.options.get("features")
        left_out = [*self.options.get("drop", ()), *([self.options["label"]] if "label" in self.options else [])]
        if left_out and features is None:
            names = data.stream(path, batch_size, seed=seed).feature_names
            unknown = [name for name in left_out if name not in names]
            if unknown:
                raise DataError(f"'{self.reference}' has no column '{unknown[0]}': it has {', '.join(names)}")
            features = [name for name in names if name not in left_out]
        rows = data.stream(path, batch_size, seed=seed, features=features)
        sample = StreamBatches(rows, torch.device("cpu")).sample
        return data.Dataset(sample, feature_names=rows.feature_names, name=self.reference), rows

    def _binarized(self, dataset: data.Dataset, seed: int) -> tuple[data.Dataset, data.GreyRows | None]:
        if self.scale != "none":
            raise DataError(f"scaling '{self.scale}' and binarizing '{self.binarize}': zeros and ones need no scaling")
        grey = data.GreyRows.of(dataset.rows, seed)
        drawn = replace(dataset, rows=grey.fixed, name=f"{dataset.name}, binarized {self.binarize}")
        return drawn, grey if self.binarize == "dynamic" else None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DataSource:
        """What :meth:`to_config` gave."""
        names = ("reference", "root", "options", "scale", "streamed")
        return cls(**{name: config[name] for name in names}, binarize=config.get("binarize", "none"))

    def to_config(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**vars(self), "options": dict(self.options)}
