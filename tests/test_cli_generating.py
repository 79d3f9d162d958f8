"""``sample`` and ``reconstruct`` on the command line, held against the moments and projections of probabilistic PCA."""

import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from pyro_lvm import load
from pyro_lvm.cli import main

_RNG = np.random.default_rng(0)
_KIND = np.repeat([0, 1], 100)
ROWS = 1000 + np.array([1, 20, 300, 3]) * (
    4 * _KIND[:, None] * [1.0, -1.0, 0.5, 0.2] + _RNG.normal(size=(200, 1)) * 0.3 + 0.4 * _RNG.normal(size=(200, 4))
)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def fitted(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *map(str, arguments), "--quiet"])
    assert not ended.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed-form PPCA of a standardised table of two classes, and a small VAE of digits."""
    folder = tmp_path_factory.mktemp("generating")
    table = pd.DataFrame(ROWS, columns=list("abcd")).assign(kind=np.where(_KIND, "far", "near"))
    table.to_csv(folder / "table.csv", index=False)
    source = ("--data", folder / "table.csv", "--label", "kind", "--scale", "standard", "--latent-dim", 2)
    fitted("ppca", "--method", "closed", *source, "--out", folder / "run")
    fitted("vae", "--steps", 25, "--option", "hidden=[8]", "--out", folder / "vae")
    return folder


def moments(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the model in the data's units."""
    saved = load(folder / "run")
    shift, divisor = (np.array(saved.config["scaling"][name]) for name in ("shift", "divisor"))
    model = saved.pair.model
    w, mean = (getattr(model, name).detach().double().numpy() for name in ("loadings", "mean"))
    covariance = (w @ w.T + float(model.noise_variance.detach()) * np.eye(4)) * np.outer(divisor, divisor)
    return shift + divisor * mean, covariance


def test_samples_have_the_models_moments_in_the_datas_units(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: samples of the scaled data, without their noise, or of the rows instead of the model."""
    out = folder / "many.csv"
    code, printed, err = run(capsys, "sample", folder / "run", "--count", 4000, "--out", out, "--json")
    assert code == 0, err
    assert json.loads(printed) == {"num_rows": 4000, "data_dim": 4}
    table = pd.read_csv(out)
    assert list(table.columns) == list("abcd")
    mean, covariance = moments(folder)
    error = np.sqrt(np.diag(covariance) / 4000)
    assert (np.abs(table.to_numpy().mean(0) - mean) < 4.5 * error).all()
    ratio = (np.cov(table.to_numpy().T) - covariance) / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs(ratio).max() < 4.5 * np.sqrt(2 / 4000)
    # Without the noise, less varies.
    assert (
        run(capsys, "sample", folder / "run", "--count", 4000, "--out", folder / "m.npy", "--mean", "--quiet")[0] == 0
    )
    assert (np.load(folder / "m.npy").var(0) < table.to_numpy().var(0)).all()


@pytest.mark.parametrize("mean", [(), ("--mean",)])
def test_samples_near_a_class_or_a_row_are_like_it(
    mean: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong: a new one of a class is of another. Their means of feature b are 80 apart, a deviation within is 10."""
    for arguments, rows in ((("--near-class", "far"), ROWS[100:]), (("--near-row", 7), ROWS[7:8])):
        out = folder / "near.parquet"
        arguments = ("sample", folder / "run", *arguments, *mean, "--count", 300, "--force", "--seed", 3)
        assert run(capsys, *arguments, "--out", out, "--quiet") == (0, "", "")
        of_class = pd.read_parquet(out)["b"].to_numpy()
        assert of_class.mean() == pytest.approx(rows[:, 1].mean(), abs=25)
        assert np.abs(of_class - rows[:, 1].mean()).max() < 70
        first = of_class.copy()
        assert run(capsys, *arguments, "--out", out, "--quiet") == (0, "", "")
        assert (pd.read_parquet(out)["b"].to_numpy() == first).all()


def test_reconstructions_are_the_posterior_means_projections(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: rows in another order or unit, or an R² that a picture of the same rows contradicts."""
    code, printed, err = run(capsys, "reconstruct", folder / "run", "--out", folder / "rebuilt.tsv", "--json")
    assert code == 0, err
    rebuilt = pd.read_csv(folder / "rebuilt.tsv", sep="\t").to_numpy()
    saved = load(folder / "run")
    shift, divisor = (np.array(saved.config["scaling"][name]) for name in ("shift", "divisor"))
    model = saved.pair.model
    w, mean = (getattr(model, name).detach().double().numpy() for name in ("loadings", "mean"))
    x = (ROWS - shift) / divisor
    z = (x - mean) @ w @ np.linalg.inv(w.T @ w + float(model.noise_variance.detach()) * np.eye(2))
    expected = shift + divisor * (mean + z @ w.T)
    np.testing.assert_allclose(rebuilt, expected, atol=1e-3 * ROWS.std(0).max())
    r_squared = 1 - (((ROWS - expected) / ROWS.std(0)) ** 2).mean()
    assert json.loads(printed) == {"num_rows": 200, "r_squared": pytest.approx(r_squared, abs=1e-4)}
    given = ("--data", folder / "table.csv", "--label", "kind")
    assert run(capsys, "reconstruct", folder / "run", "--out", folder / "r.npy", "--quiet", *given) == (0, "", "")
    np.testing.assert_allclose(np.load(folder / "r.npy"), rebuilt, rtol=1e-5)


@pytest.mark.parametrize(
    ("command", "name", "arguments"),
    [
        ("sample", "vae", ("--count", 23)),
        ("sample", "vae", ("--count", 3, "--near-class", "3", "--mean")),
        ("reconstruct", "vae", ()),
        ("reconstruct", "run", ()),
    ],
)
def test_pictures(
    command: str, name: str, arguments: tuple[object, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / f"{command}-{name}-{len(arguments)}.png"
    code, printed, err = run(capsys, command, folder / name, "--out", out, *arguments)
    assert code == 0, err
    assert str(out) in printed
    assert matplotlib.image.imread(out).shape[0] > 100


def test_endings_in_capitals_are_the_same_endings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: text in a file that calls itself an array or a picture, or another file than the one that was named."""
    for name, ending, start in (
        ("run", "NPY", b"\x93NUMPY"),
        ("run", "PARQUET", b"PAR1"),
        ("run", "TSV", b"a\tb\tc\td\n"),
        ("vae", "PNG", b"\x89PNG"),
    ):
        out = folder / f"capitals.{ending}"
        code, _, err = run(capsys, "sample", folder / name, "--out", out, "--count", 4)
        assert code == 0, err
        assert out.read_bytes().startswith(start)
    assert len(list(folder.glob("capitals.*"))) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "run", "--out", "new.doc"), "ending that isn't known: expected .csv"),
        (("sample", "run", "--out", "table.csv"), "replace it with --force"),
        (("sample", "run", "--out", "new.csv", "--count", 0), "count=0"),
        (("sample", "run", "--out", "new.csv", "--seed", -1), "seed=-1"),
        (("sample", "run", "--out", "new.csv", "--near-class", "up"), "'up': the data of the run has the classes"),
        (("sample", "run", "--out", "new.csv", "--near-row", 200), "near row 200: expected .* 0 to 199"),
        (("sample", "run", "--out", "new.csv", "--near-row", 2, "--near-class", "far"), "choose one of them"),
        (("sample", "run", "--out", "new.png"), "no images: write to .csv"),
        (("sample", "run", "--out", "new.PNG"), "no images: write to .csv"),
        (("sample", "vae", "--out", "new.png", "--count", 401), "at most 400"),
        (("sample", "nowhere", "--out", "new.csv"), "nowhere"),
        (("reconstruct", "run", "--out", "r.csv", "--data", "digits"), "64 features"),
        (("reconstruct", "run", "--out", "r.xls"), "ending that isn't known"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[object, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"run", "vae", "nowhere", "new.doc", "new.csv", "new.png", "new.PNG", "table.csv", "r.csv", "r.xls"}
    code, out, err = run(capsys, *(folder / str(a) if a in places else a for a in arguments))
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1
    assert re.search(message, err), err
    assert not (folder / "new.csv").exists()
