"""Data sets by name: what the names give, and the MNIST files through torchvision's reader."""

import gzip
import os
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pyro_lvm.data import DATASET_NAMES, load
from pyro_lvm.errors import DataError

needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision isn't installed")


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message, "an error is one line"
    return message


def test_digits_are_the_default() -> None:
    """The first thing anyone runs: wrong pixels or labels would mislead every example."""
    dataset, peer = load(), load_digits()
    assert np.array_equal(dataset.rows.numpy() * 16, peer.data)
    assert dataset.labels is not None
    assert np.array_equal(dataset.labels, peer.target)
    assert (dataset.image_shape, dataset.name, dataset.label_names) == ((8, 8), "digits", tuple("0123456789"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("minst", {}, ["'minst'", "did you mean 'mnist'", *DATASET_NAMES, ".csv", ".parquet", ".npz"]),
        ("Digits", {}, ["did you mean 'digits'"]),
        ("xyz", {}, ["no known data set", *DATASET_NAMES]),
        ("nowhere/to/be/found.csv", {}, ["there is no file", "found.csv"]),
        ("digits", {"train": False}, ["no test set"]),
        ("digits", {"drop": "a"}, ["for files", "'digits'"]),
        ("mnist", {"header": True}, ["for files", "'mnist'"]),
        ("mnist", {}, ["root="]),
        ("oil-flow", {}, ["root=", "DataTrn.txt"]),
    ],
)
def test_wrong_names_and_options(name: str, options: dict[str, object], words: list[str]) -> None:
    """A mistyped name should cost one look at the message."""
    message = refusal(name, **options)
    assert [word for word in words if word not in message] == []


def test_files_beside_and_folders(tmp_path: Path) -> None:
    """A mistyped file name is suggested from its folder, and a folder is no data set."""
    (tmp_path / "heights.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "notes.md").write_text("a,b\n1,2\n3,4\n")
    assert "did you mean 'heights.csv'" in refusal(tmp_path / "hieghts.csv")
    assert "is a folder" in refusal(tmp_path)
    assert "notes.md has an ending that isn't known" in refusal(tmp_path / "notes.md")
    assert load("heights.csv", root=tmp_path).num_rows == 2
    assert f"{tmp_path / 'weights.csv'}" in refusal("weights.csv", root=tmp_path)


def test_oil_flow(tmp_path: Path) -> None:
    """One-hot labels become codes, and anything else in their place is refused."""
    (tmp_path / "DataTrn.txt").write_text("  1.0 2.0\n  3.0 4.0\n  5.0 6.0\n")
    assert load("oil-flow", root=tmp_path).labels is None
    (tmp_path / "DataTrnLbls.txt").write_text(" 0 0 1\n 1 0 0\n 0 1 0\n")
    dataset = load("oil-flow", root=tmp_path)
    assert dataset.rows.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 1]
    assert "DataTst.txt" in refusal("oil-flow", root=tmp_path, train=False)
    (tmp_path / "DataTrnLbls.txt").write_text(" 0 0 1\n 1 0 1\n 0 1 0\n")
    assert "one-hot" in refusal("oil-flow", root=tmp_path)


# --- MNIST ------------------------------------------------------------------------------------------------------------

IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5) * 4
LABELS = np.array([7, 0, 9], np.uint8)


def idx(array: np.ndarray) -> bytes:
    """The format of the MNIST files: two zeros, a type (8: unsigned bytes), the shape in big-endian, the numbers."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, *, compressed: bool, split: str = "train", images: bytes = idx(IMAGES)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in (("images-idx3", images), ("labels-idx1", idx(LABELS))):
        path = folder / f"{split}-{part}-ubyte"
        if compressed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)


@needs_torchvision
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("name", "layout"),
    [("mnist", "."), ("mnist", "MNIST/raw"), ("fashion-mnist", "."), ("fashion-mnist", "FashionMNIST/raw")],
)
@pytest.mark.parametrize("train", [True, False])
def test_images_in_both_layouts(tmp_path: Path, name: str, layout: str, compressed: bool, train: bool) -> None:
    """Pixels must come in order and in [0, 1], from the split that was asked for."""
    write_idx(tmp_path / layout, compressed=compressed, split="train" if train else "t10k")
    dataset = load(name, root=tmp_path, train=train)
    assert np.array_equal(dataset.rows.numpy(), IMAGES.reshape(3, 20).astype(np.float32) / 255)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [7, 0, 9]
    assert (dataset.image_shape, dataset.name) == ((4, 5), name)
    assert dataset.label_names is not None
    assert dataset.label_names[9] == {"mnist": "9", "fashion-mnist": "Ankle boot"}[name]
    assert f"{'t10k' if train else 'train'}-images-idx3-ubyte" in refusal(name, root=tmp_path, train=not train)


@needs_torchvision
def test_missing_images_say_where_they_are_looked_for(tmp_path: Path) -> None:
    """Nothing is downloaded that wasn't asked for, and a person learns where to put the files."""
    message = refusal("mnist", root=tmp_path)
    assert str(tmp_path / "MNIST" / "raw") in message
    assert "download=True" in message
    assert list(tmp_path.iterdir()) == []
    assert "no folder" in refusal("mnist", root=tmp_path / "nowhere")


@needs_torchvision
@pytest.mark.parametrize(
    ("images", "words"),
    [
        (b"", ["train-images-idx3-ubyte", "IDX"]),
        (b"not an IDX file at all", ["train-images-idx3-ubyte", "IDX"]),
        (idx(IMAGES)[:-5], ["train-images-idx3-ubyte", "IDX"]),
        (idx(LABELS), ["train-images-idx3-ubyte", "IDX"]),
        (idx(IMAGES[:2]), ["2 images", "3 labels"]),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_damaged_images(tmp_path: Path, images: bytes, words: list[str], compressed: bool) -> None:
    """A half-downloaded file must not pass for data, nor end in an assertion of torchvision's."""
    write_idx(tmp_path, compressed=compressed, images=images)
    message = refusal("mnist", root=tmp_path)
    assert [word for word in words if word not in message] == []


@needs_torchvision
def test_files_that_only_claim_to_be_compressed(tmp_path: Path) -> None:
    """A browser often decompresses a download and keeps its name."""
    write_idx(tmp_path, compressed=True)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(idx(IMAGES))
    assert "can't be read" in refusal("mnist", root=tmp_path)


@needs_torchvision
def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision reports every mirror on a line of its own."""
    from torchvision.datasets import mnist

    monkeypatch.setattr(mnist.MNIST, "mirrors", [f"file://{tmp_path}/absent/"])
    assert "can't be downloaded" in refusal("mnist", root=tmp_path / "new", download=True)


@needs_torchvision
def test_download_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download is torchvision's own, into its own layout, where it is found again."""
    from torchvision.datasets import mnist

    def fetch(url: str, *, download_root: str, filename: str, md5: str) -> None:
        write_idx(Path(download_root), compressed=False, split=filename.split("-")[0])

    monkeypatch.setattr(mnist, "download_and_extract_archive", fetch)
    assert load("mnist", root=tmp_path / "new", download=True, train=False).num_rows == 3
    assert load("mnist", root=tmp_path / "new").num_rows == 3


def test_missing_torchvision_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an optional package: without it everything else works, and these names say what they lack."""
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    message = refusal("mnist", root=tmp_path)
    assert "install torchvision" in message
    assert torch.__version__ in message


@needs_torchvision
def test_operators_are_declared_only_where_they_are_missing() -> None:
    """Declaring them beside the real ones would break the detection models of whoever has a matching build."""
    from torchvision.extension import _has_ops

    from pyro_lvm.data import torchvision_compat

    assert torchvision_compat.torchvision_mnist() is torchvision_compat.torchvision_mnist()
    assert len(torchvision_compat._declared) == (0 if _has_ops() else 1)


# --- the real files ---------------------------------------------------------------------------------------------------

DATA = os.environ.get("PYRO_LVM_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="PYRO_LVM_DATA doesn't name the folder with the original files")


@needs_data
@needs_torchvision
def test_original_mnist() -> None:
    """The published numbers of the test set: class counts, and mean 0.1325 of the pixels."""
    dataset = load("mnist", root=f"{DATA}/mnist", train=False)
    assert dataset.labels is not None
    assert dataset.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (dataset.num_rows, dataset.data_dim, dataset.image_shape) == (10_000, 784, (28, 28))
    assert float(dataset.rows.mean()) == pytest.approx(0.1325, abs=1e-4)


@needs_data
def test_original_oil_flow() -> None:
    """1000 rows of 12 measurements in 3 regimes."""
    dataset = load("oil-flow", root=f"{DATA}/oil_flow")
    assert (dataset.num_rows, dataset.data_dim, dataset.num_missing) == (1000, 12, 0)
    assert dataset.labels is not None
    assert dataset.labels.bincount().shape == (3,)


@needs_data
def test_air_quality_has_its_holes() -> None:
    """Real missing values, in two columns."""
    dataset = load(f"{DATA}/airquality/airquality.csv", drop=["rownames", "Day"], label="Month")
    assert dataset.feature_names == ("Ozone", "Solar.R", "Wind", "Temp")
    assert dataset.rows.isnan().sum(0).tolist() == [37, 7, 0, 0]
    assert dataset.label_names == ("5", "6", "7", "8", "9")
