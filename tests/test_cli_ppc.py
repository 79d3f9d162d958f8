"""``ppc`` on the command line: what it prints, what it writes, and how it refuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pyro_lvm.cli import main

_RANDOM = np.random.default_rng(0)
ROWS = (_RANDOM.normal(size=(300, 2)) @ _RANDOM.normal(size=(2, 5)) + 0.4 * _RANDOM.normal(size=(300, 5))) * [
    1,
    20,
    0.1,
    3,
    1,
]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PPCA in closed form on a standardised table, a fifth of its rows held out; and rows with outliers."""
    folder = tmp_path_factory.mktemp("ppc")
    pd.DataFrame(ROWS, columns=list("abcde")).to_csv(folder / "table.csv", index=False)
    odd = ROWS[:100].copy()
    odd[::20, 1] += 400
    pd.DataFrame(odd, columns=list("abcde")).to_csv(folder / "odd.csv", index=False)
    (folder / "own.py").write_text("def span_of_b(x):\n    return x[:, 1].max() - x[:, 1].min()\n")
    fit = ["fit", "ppca", "--method", "closed", "--data", folder / "table.csv", "--scale", "standard"]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, fit), "--validation", "0.2", "--out", str(folder / "run"), "--quiet"])
    assert not ended.value.code
    return folder


def test_held_out_rows(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong: the rows of the training are checked, a line lacks its verdict, or nothing is written."""
    monkeypatch.setattr("pyro_lvm.plots.files.DPI", 30)
    code, out, err = run(capsys, "ppc", folder / "run", "--draws", 60)
    assert code == 0, err
    assert "60 held-out rows against 60 mixed replicates of 20 refits" in " ".join(out.split())
    assert "PPCA's estimator" in " ".join(out.split())
    lines = [line for line in out.splitlines() if any(f" {v} " in line for v in ("fits", "doubtful", "misfit"))]
    assert len(lines) == 13
    assert "features in the replicates' units" in " ".join(out.split())
    assert "uniform" in out
    names = {path.name for path in (folder / "run" / "ppc").iterdir()}
    assert names == {"draws.nc", "statistics.png", "densities.png", "pit.png"}
    observed = xr.open_dataset(folder / "run" / "ppc" / "draws.nc", group="observed_data")
    assert list(observed["feature"].values) == list("abcde")
    # In the data's units, not scaled.
    held = observed["x"].values
    assert all(np.isclose(ROWS, row, rtol=1e-4).all(1).any() for row in held)


def test_given_rows_and_a_function_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: outliers in one column go unseen, or a person's function is given scaled rows."""
    arguments = (
        "--data",
        folder / "odd.csv",
        "--statistics",
        f"kurtosis,{folder / 'own.py'}:span_of_b,feature-variance",
    )
    code, out, err = run(
        capsys, "ppc", folder / "run", *arguments, "--draws", 200, "--out", folder / "odd", "--json", "--seed", 1
    )
    assert code == 0, err
    figures = json.loads(out)
    assert (figures["rows"], figures["num_rows"], figures["held_out"]) == ("held-out", 100, True)
    kurtosis, own, variance = figures["statistics"]
    assert {one["verdict"] for one in figures["statistics"]} == {"misfit"}
    assert kurtosis["p_value"] == pytest.approx(2 / 201)
    assert own["observed"] > 390
    assert variance["worst"] == "b"
    assert (folder / "odd" / "draws.nc").is_file()


def test_its_own_rows_given_again_are_no_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: the rows of the training, named once more, pass for held-out ones."""
    arguments = ("--data", folder / "table.csv", "--statistics", "mean", "--draws", 20, "--rows", 50, "--json")
    figures = json.loads(run(capsys, "ppc", folder / "run", *arguments, "--out", folder / "again")[1])
    assert (figures["held_out"], figures["conservative"]) == (False, True)
    assert (figures["num_rows"], figures["total_rows"]) == (50, 300)


def test_refits_as_they_are_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong: given rows are compared with refits to themselves, or 0 refits are some."""
    monkeypatch.setattr("pyro_lvm.plots.files.DPI", 30)
    options = ("--statistics", "mean", "--draws", 20, "--json", "--out", folder / "refits")
    for given, refits in (
        (("--refits", 0), 0),
        (("--data", folder / "odd.csv", "--refits", 2), 2),
    ):
        code, out, err = run(capsys, "ppc", folder / "run", *options, *given)
        assert code == 0, err
        assert json.loads(out)["refits"] == refits
    given = ("--data", folder / "table.csv", "--refits", 20)
    code, _, err = run(capsys, "ppc", folder / "run", *options, *given)
    assert code == 2
    assert "without --data" in err


def test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong: images have no picture of rows beside replicates, or rows of the training aren't called so."""
    monkeypatch.setattr("pyro_lvm.plots.files.DPI", 30)
    fit = ("fit", "ppca", "--method", "closed", "--data", "digits", "--latent-dim", 3, "--out", tmp_path / "run")
    assert run(capsys, *fit, "--quiet")[0] == 0
    code, out, err = run(capsys, "ppc", tmp_path / "run", "--rows", 100, "--draws", 30, "--statistics", "mean,zeros")
    assert code == 0, err
    assert "100 training rows at random of 1,797" in " ".join(out.split())
    assert "conservative" in out
    assert (tmp_path / "run" / "ppc" / "replicates.png").stat().st_size > 5000


def test_too_few_replicates_are_said_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: "fits", from so few replicates that nothing could have been called a misfit, without a word."""
    said = []
    for draws in (198, 199):
        options = ("--statistics", "mean", "--draws", draws, "--rows", 20, "--out", folder / "few")
        code, _, err = run(capsys, "ppc", folder / "run", *options, "--quiet")
        assert code == 0, err
        said.append(err)
    assert "warning: with 198 replicates the p-value of a single number is never below 0.0101" in said[0]
    assert "take 199 or more" in said[0]
    assert "replicates" not in said[1]


def test_rows_that_share_latents_and_a_column_that_never_varies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong: Bayesian PCA, whose rows have no weights of their own, is no pair to check; ArviZ's own words come out."""
    monkeypatch.setattr("pyro_lvm.plots.files.DPI", 30)
    pd.DataFrame(ROWS[:60], columns=list("abcde")).assign(same=3.0).to_csv(tmp_path / "table.csv", index=False)
    fit = ("fit", "bayesian-pca", "--data", tmp_path / "table.csv", "--scale", "standard", "--steps", 5)
    assert run(capsys, *fit, "--no-compile", "--quiet", "--out", tmp_path / "run")[0] == 0
    code, out, err = run(capsys, "ppc", tmp_path / "run", "--draws", 199, "--statistics", "mean", "--json")
    assert code == 0, err
    assert "single value" not in err
    assert json.loads(out)["pareto_k_above_0.7"] is None
    assert (tmp_path / "run" / "ppc" / "draws.nc").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--statistics", "median"), "statistic 'median'"),
        (("--draws", 0), "num_draws=0"),
        (("--draws", -5), "num_draws=-5"),
        (("--rows", 0), "rows=0"),
        (("--rows", 1), "rows=1"),
        (("--seed", -1), "seed=-1"),
        (("--replication", "both"), "--replication both"),
        (("--data", "digits"), "64 features"),
        (("--refits", -1), "refits=-1"),
        (("--refits", 500), "from 1 to the 400 replicates"),
        (("--refits", 5, "--replication", "posterior"), "replication='mixed'"),
        (("--out", "RUN/metrics.json"), "can't write figures"),
    ],
)
def test_bad_input(arguments: tuple[object, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: a traceback, or work done before what was given is looked at."""
    given = [folder / "run" / "metrics.json" if a == "RUN/metrics.json" else a for a in arguments]
    code, out, err = run(capsys, "ppc", folder / "run", *given)
    assert code == 2, err
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
