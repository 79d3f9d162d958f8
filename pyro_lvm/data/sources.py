"""``load``: a data set by its name or by its file."""

import os
from collections.abc import Sequence
from pathlib import Path

from pyro_lvm.data.checks import close_matches, near_matches
from pyro_lvm.data.dataset import Dataset
from pyro_lvm.data.files import FILE_ENDINGS, ending_of, read_file
from pyro_lvm.data.images import MNIST_NAMES, digits, read_mnist
from pyro_lvm.errors import DataError

DATASET_NAMES = ("digits", *MNIST_NAMES, "oil-flow")
"""Names that :func:`load` knows without a file."""


def load(
    name_or_path: str | os.PathLike[str] = "digits",
    *,
    root: str | os.PathLike[str] | None = None,
    train: bool = True,
    drop: Sequence[str] | str = (),
    label: str | None = None,
    features: Sequence[str] | str | None = None,
    header: bool | None = None,
    download: bool = False,
) -> Dataset:
    """Load a data set.

    Args:
        name_or_path: ``digits`` (comes with scikit-learn), ``mnist``, ``fashion-mnist`` or ``oil-flow`` (from
            ``root``), or the path of a file: delimited text, whitespace-separated .txt, .parquet, .npy or .npz.
        root: the folder with a named data set's files; for a relative path that isn't found, where else to look.
        train: the training set, or else the test set, of a named data set that has both.
        drop: names of columns of a file to leave out; the columns of a file without names are ``"0"``, ``"1"`` and on.
        label: name of the column that holds the labels: anything that can be told apart.
        features: names of the columns to keep, in this order.
        header: whether a text file's first line holds names; ``None`` looks.
        download: let torchvision download the images that aren't in ``root``.

    Returns:
        The data set: NaN for a missing entry, images flattened to rows of numbers in [0, 1].

    Raises:
        DataError: for an unknown name or column, or data that is no table of finite numbers with at least 2 rows.

    Warns:
        UserWarning: where float32 loses the variation of a column.
    """
    name = os.fspath(name_or_path)
    folder = None if root is None else Path(root)
    if name not in DATASET_NAMES:
        if not train:
            raise DataError(f"train=False was given for {name!r}: a file has no test set of its own; load its own file")
        return read_file(
            _existing(name, folder),
            drop=[drop] if isinstance(drop, str) else drop,
            label=label,
            features=[features] if isinstance(features, str) else features,
            header=header,
        )
    if drop or label is not None or features is not None or header is not None:
        raise DataError(f"drop, label, features and header are for files: {name!r} has its own columns; leave them out")
    if name in MNIST_NAMES:
        return read_mnist(name, folder, train=train, download=download)
    if name == "oil-flow":
        return _oil_flow(folder, train=train)
    if not train:
        raise DataError("train=False was given for 'digits', which has no test set: load it and hold rows out yourself")
    return digits()


def _existing(name: str, folder: Path | None) -> Path:
    path = Path(name).expanduser()
    places = [path] if folder is None or path.is_absolute() else [path, folder / path]
    for place in places:
        if place.is_dir():
            raise DataError(
                f"{place} is a folder: expected a file ({', '.join(FILE_ENDINGS)}), or the name of a data set "
                f"({', '.join(DATASET_NAMES)}) with the folder as root="
            )
        if place.is_file():
            return place
    if ending_of(name) is None and len(path.parts) == 1:
        close = close_matches(name, DATASET_NAMES)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise DataError(
            f"{name!r} is no known data set and no file: {hint}The names are {', '.join(DATASET_NAMES)}; "
            f"files end in {', '.join(FILE_ENDINGS)}"
        )
    here = (
        sorted(entry.name for entry in path.parent.glob("*") if ending_of(entry.name)) if path.parent.is_dir() else []
    )
    hint = near_matches(path.name, here) if here else f"files end in {', '.join(FILE_ENDINGS)}"
    raise DataError(f"there is no file {' or '.join(str(place) for place in places)}: {hint}")


def _oil_flow(folder: Path | None, *, train: bool) -> Dataset:
    """Multi-phase oil flow (Bishop and James 1993), in the files of its authors: 12 measurements, 3 flow regimes."""
    split = "DataTrn" if train else "DataTst"
    if folder is None or not (folder / f"{split}.txt").is_file():
        where = "was asked for without its folder" if folder is None else f"is looked for as {folder / f'{split}.txt'}"
        raise DataError(f"oil-flow {where}: give root=, the folder that holds {split}.txt and {split}Lbls.txt")
    rows = read_file(folder / f"{split}.txt", header=False).rows
    labels_path = folder / f"{split}Lbls.txt"
    if not labels_path.is_file():
        return Dataset(rows, name="oil-flow")
    one_hot = read_file(labels_path, header=False).rows
    if len(one_hot) != len(rows) or not (bool(((one_hot == 0) | (one_hot == 1)).all() and (one_hot.sum(1) == 1).all())):
        raise DataError(f"{labels_path} has no single 1 among 0s in each of {len(rows)} rows: expected one-hot labels")
    names = tuple(str(code) for code in range(one_hot.shape[1]))
    return Dataset(rows, labels=one_hot.argmax(1), label_names=names, name="oil-flow")
