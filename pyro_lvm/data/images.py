"""Image data sets: scikit-learn's digits, and the MNIST family through torchvision."""

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_lvm.data.checks import check_rows, first_line
from pyro_lvm.data.dataset import Dataset
from pyro_lvm.data.torchvision_compat import torchvision_mnist
from pyro_lvm.errors import DataError

_DIGIT_NAMES = tuple(str(digit) for digit in range(10))
_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
MNIST_NAMES = tuple(_FOLDERS)
"""Names of the data sets that :func:`read_mnist` reads."""


def digits() -> Dataset:
    """Give scikit-learn's handwritten digits (the test set of UCI's Optical Recognition of Handwritten Digits).

    Returns:
        1797 rows of 64 pixels in [0, 1] (sixteenths), images of 8 x 8, with their digits as labels.
    """
    # scikit-learn takes longer to import than all of this package.
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return Dataset(
        rows=torch.from_numpy(bunch.data).float() / 16,
        labels=torch.from_numpy(bunch.target).long(),
        label_names=_DIGIT_NAMES,
        image_shape=(8, 8),
        name="digits",
    )


def read_mnist(name: str, root: Path | None, *, train: bool = True, download: bool = False) -> Dataset:
    """Read MNIST or Fashion-MNIST from its original IDX files.

    Args:
        name: ``mnist`` or ``fashion-mnist``.
        root: the folder that holds the files, or in which torchvision keeps them (under ``MNIST/raw``); each may be
            gzip-compressed.
        train: the 60,000 training images, or else the 10,000 test images.
        download: let torchvision download the files to ``root`` if they aren't there.

    Returns:
        Rows of 784 pixels in [0, 1] (255ths), images of 28 x 28, with their classes as labels.

    Raises:
        DataError: where there is no ``root``, no such file, no torchvision, or a file is damaged.
    """
    if root is None:
        raise DataError(
            f"{name} was asked for without its folder: give root=, the folder that holds or is to hold its files"
        )
    if not root.is_dir() and not download:
        raise DataError(
            f"{name} is looked for in {root}, which is no folder: check root=, or download=True to fetch it"
        )
    mnist = torchvision_mnist()
    split = "train" if train else "t10k"
    folders = [root, root / "raw", root / _FOLDERS[name] / "raw"]
    paths = [_find(folders, f"{split}-{part}") for part in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    if None in paths and download:
        _download(getattr(mnist, _FOLDERS[name]), root, name)
        paths = [_find(folders, f"{split}-{part}") for part in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    images_path, labels_path = paths
    if images_path is None or labels_path is None:
        raise DataError(
            f"{name} has no {split}-images-idx3-ubyte and {split}-labels-idx1-ubyte (or .gz) in "
            f"{', '.join(str(folder) for folder in folders)}: check root=, or say download=True to fetch them"
        )
    images = _read_idx(mnist.read_image_file, images_path)
    labels = _read_idx(mnist.read_label_file, labels_path)
    if len(images) != len(labels):
        raise DataError(
            f"{name} has {len(images)} images in {images_path} and {len(labels)} labels in {labels_path}: "
            "expected as many; use files of one set"
        )
    rows = images.flatten(1).float() / 255
    check_rows(rows, name=name)
    names = _DIGIT_NAMES if name == "mnist" else tuple(mnist.FashionMNIST.classes)
    if not bool((labels < len(names)).all()):
        raise DataError(
            f"{name} has a label {int(labels.max())} in {labels_path}: expected 0 to {len(names) - 1}; check the file"
        )
    return Dataset(rows, labels=labels, label_names=names, image_shape=tuple(images.shape[1:]), name=name)


def _find(folders: list[Path], stem: str) -> Path | None:
    candidates = [folder / f"{stem}{ending}" for folder in folders for ending in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _read_idx(read: Callable[[str], Tensor], path: Path) -> Tensor:
    try:
        if path.suffix != ".gz":
            return read(str(path))
        # torchvision's reader takes the path of an uncompressed file and nothing else.
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / path.stem
            with gzip.open(path, "rb") as source, open(plain, "wb") as target:
                shutil.copyfileobj(source, target)
            return read(str(plain))
    except (AssertionError, LookupError, TypeError, ValueError, RuntimeError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} can't be read as an IDX file ({first_line(error)}): expected unsigned bytes; fetch it anew"
        ) from error


def _download(dataset: Callable[..., object], root: Path, name: str) -> None:
    try:
        dataset(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} can't be downloaded to {root} ({first_line(error)}): fetch its files another way"
        ) from error
