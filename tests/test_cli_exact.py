"""Exact fits, imputation, embedding and selection through the command line; oracles are joint Gaussians in NumPy."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyro_lvm import em, load
from pyro_lvm.cli import main

NAMES = ["length", "width", "height", "weight", "age"]
_RNG = np.random.default_rng(0)
ROWS = _RNG.normal(size=(60, 2)) @ _RNG.normal(size=(2, 5)) + 0.3 * _RNG.normal(size=(60, 5))
ROWS = (ROWS * [1, 10, 0.1, 100, 1] + [0, 5, 0, 1000, -3]).round(4)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code, out, err = run(capsys, *arguments)
    assert code == 2, err
    assert out == ""
    assert err.startswith("pyro-lvm: ")
    assert err.count("\n") == 1
    return err


def holes(num_rows: int = 60) -> np.ndarray:
    hidden = np.random.default_rng(1).random((num_rows, 5)) < 0.25
    hidden[4] = True
    hidden[0] = False
    return np.where(hidden, np.nan, ROWS[:num_rows])


def write_table(path: Path, rows: np.ndarray) -> Path:
    """A spreadsheet's table: an index without a name, words with commas, and missing entries in several spellings."""
    spelled = iter(["", "NA", "nan"] * rows.size)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "kind", *NAMES])
        for i, row in enumerate(rows):
            writer.writerow(
                [
                    f"{i:03d}",
                    "oak, old" if i % 2 else "NA",
                    *(next(spelled) if math.isnan(v) else f"{v:.6f}" for v in row),
                ]
            )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with holes and the run of EM on it, of scaled features."""
    folder = tmp_path_factory.mktemp("exact")
    write_table(folder / "holes.csv", holes())
    data = ("--data", str(folder / "holes.csv"), "--drop", "Unnamed: 0,kind", "--scale", "standard")
    with pytest.raises(SystemExit) as ended:
        main(["fit", "ppca", "--method", "em", *data, "--out", str(folder / "run"), "--quiet"])
    assert ended.value.code == 0
    return folder


def gaussian_of(run_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of x in the data's units, under a saved run."""
    model = load(run_folder).pair.model
    scaling = json.loads((run_folder / "config.json").read_text())["scaling"]
    shift, divisor = np.array(scaling["shift"]), np.array(scaling["divisor"])
    w = model.loadings.detach().double().numpy() * divisor[:, None]
    noise = float(model.noise_variance.detach()) * np.diag(divisor**2)
    return model.mean.detach().double().numpy() * divisor + shift, w @ w.T + noise


def conditional(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the missing entries of a row given the others."""
    gone, seen = np.isnan(x), ~np.isnan(x)
    gain = covariance[np.ix_(gone, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    return mean[gone] + gain @ (x - mean)[seen], covariance[np.ix_(gone, gone)] - gain @ covariance[np.ix_(seen, gone)]


# ------------------------------------------------------------------ fit


def test_em_and_closed_form_reach_the_maximum_of_the_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: what is saved would not be what the estimator found, 14.2097883 nats a row.
    for method, extra in (("closed", ()), ("em", ("--option", "tol=1e-12"))):
        out = tmp_path / method
        base = ("fit", "ppca", "--latent-dim", 8, "--method", method, *extra)
        code, printed, err = run(capsys, *base, "--out", out, "--json")
        assert code == 0, err
        figures = json.loads(printed)
        assert figures["log_evidence"] == pytest.approx(14.2097883, abs=1e-7)
        assert figures["gap"] == pytest.approx(0, abs=1e-8)
        assert figures["kl_to_exact"] == pytest.approx(0, abs=1e-8)
        assert (figures["method"], figures["converged"]) == (method, True)
        history = pd.read_csv(out / "history.csv")
        assert history["elbo"].iloc[-1] == pytest.approx(14.2097883, abs=1e-7)
        assert (np.diff(history["elbo"]) >= -1e-12).all()
        assert history["step"].iloc[-1] == figures["steps"]
        code, printed, _ = run(capsys, "evaluate", out, "--json")
        for name, value in json.loads(printed).items():
            assert value == (pytest.approx(figures[name], rel=1e-6) if isinstance(value, float) else figures[name])
        assert run(capsys, "check", out, "--json")[0] == 0


def test_em_takes_holes_and_holds_out(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("fit", "ppca", "--method", "em", "--data", folder / "holes.csv", "--drop", "Unnamed: 0,kind")
    code, printed, err = run(capsys, *base, "--validation", 0.25, "--out", tmp_path / "run", "--figures", "--json")
    assert code == 0, err
    figures = json.loads(printed)
    assert figures["rows_left_out"] == 0
    assert figures["held_out"]["num_rows"] == 15
    assert figures["kl_to_exact"] == pytest.approx(0, abs=1e-6)
    # Wrong: rows that were to be held out would have been learned from.
    kept = np.sort(np.random.default_rng(0).permutation(60)[15:])
    estimator = em.PPCA(2, method="em", random_state=0).fit(holes()[kept].astype(np.float32))
    assert figures["log_evidence"] == pytest.approx(estimator.score(holes()[kept]), abs=1e-4)
    code, printed, _ = run(capsys, "evaluate", tmp_path / "run", "--json")
    assert json.loads(printed)["held_out"]["log_evidence"] == pytest.approx(
        figures["held_out"]["log_evidence"], abs=1e-6
    )


def test_a_guide_for_complete_rows_is_graded_on_these(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("fit", "ppca", "--method", "em", "--guide", "full", "--drop", "Unnamed: 0,kind")
    out = tmp_path / "run"
    code, printed, err = run(capsys, *base, "--data", folder / "holes.csv", "--out", out)
    assert code == 0, err
    complete = int((~np.isnan(holes()).any(1)).sum())
    assert f"the {60 - complete} others are in the fit" in printed
    code, printed, _ = run(capsys, "evaluate", out, "--json")
    assert code == 0
    assert json.loads(printed)["num_rows"] == complete
    assert run(capsys, "check", out, "--json")[0] == 0
    table = holes()
    table[np.arange(60), np.arange(60) % 5] = np.nan
    write_table(tmp_path / "all.csv", table)
    message = refused(capsys, *base, "--data", tmp_path / "all.csv", "--out", tmp_path / "never")
    assert "all 60 rows have missing entries" in message
    assert not (tmp_path / "never").exists()


def test_em_of_a_stream_is_em_of_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 2)) @ np.random.default_rng(1).normal(size=(2, 5))
    rows += 0.3 * np.random.default_rng(2).normal(size=rows.shape)
    np.save(tmp_path / "big.npy", rows.astype(np.float32))
    base = ("fit", "ppca", "--data", tmp_path / "big.npy", "--stream")
    best = em.PPCA(2).fit(rows.astype(np.float32)).log_likelihood_path_[-1]
    for method in ("em", "closed"):
        out = tmp_path / method
        code, printed, err = run(capsys, *base, "--method", method, "--out", out, "--json")
        assert code == 0, err
        assert pd.read_csv(out / "history.csv")["elbo"].iloc[-1] == pytest.approx(best, abs=1e-7)
        code, again, _ = run(capsys, "evaluate", out, "--json")
        assert json.loads(again)["log_evidence"] == pytest.approx(json.loads(printed)["log_evidence"], abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "sgd"), "--method sgd: expected one of svi, em, closed"),
        (("--method", "em", "--lr", "0.1"), "--lr is for training by gradients, not for --method em"),
        (("--method", "em", "--epochs", "3"), "--epochs is for training by gradients"),
        (("--method", "em", "--batch-size", "256"), "--batch-size is for training by gradients"),
        (
            ("--method", "em", "--checkpoint-every", "1", "--out", "r"),
            "--checkpoint-every is for training by gradients",
        ),
        (("--method", "em", "--resume", "--out", "r"), "--resume is for training by gradients"),
        (("--method", "closed", "--steps", "3"), "--steps is for training by gradients"),
        (("--method", "em", "--option", "tol=-1"), "tol=-1: expected a number"),
        (("--method", "em", "--option", "n_components=3"), "no option 'n_components'"),
        (("--method", "em", "--option", "depth=3"), "no option 'depth'"),
        (("--method", "em", "--latent-dim", "64"), "latent_dim=64"),
        (("--method", "em", "--steps", "-1"), "max_iter=-1"),
        (("--option", "tol=1e-3"), "no option 'tol'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "fit", "ppca", *arguments)
    assert not list(tmp_path.iterdir())


def test_closed_form_of_rows_with_holes_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("fit", "ppca", "--data", folder / "holes.csv", "--drop", "Unnamed: 0,kind")
    assert "entries of X are missing" in refused(capsys, *base, "--method", "closed")
    assert "which the guide LinearGaussian cannot take" in refused(capsys, *base, "--guide", "full")


# ------------------------------------------------------------------ impute


def test_imputed_entries_are_the_conditional_gaussians_means(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: a person's table would be filled with something else than its best guess, or changed elsewhere.
    out = folder / "filled.csv"
    code, printed, err = run(capsys, "impute", folder / "run", "--data", folder / "holes.csv", "--out", out)
    assert code == 0, err
    x = holes()
    filled_rows = int(np.isnan(x).any(1).sum())
    expected = f"filled {int(np.isnan(x).sum())} entries in {filled_rows} of 60 rows, 1 of them with nothing observed"
    assert expected in printed
    mean, covariance = gaussian_of(folder / "run")
    before, after = (list(csv.reader(path.open())) for path in (folder / "holes.csv", out))
    assert before[0] == after[0]
    assert len(before) == len(after)
    for row, old, new in zip(x, before[1:], after[1:], strict=True):
        values = np.array([float(cell) for cell in new[2:]])
        gone = np.isnan(row)
        assert [cell for cell, hole in zip(new, [False, False, *gone], strict=True) if not hole] == [
            cell for cell, hole in zip(old, [False, False, *gone], strict=True) if not hole
        ]
        if gone.any():
            best = conditional(row, mean, covariance)[0]
            np.testing.assert_allclose(values[gone], best, atol=1e-5 * np.sqrt(np.diag(covariance)[gone]).max())


def test_runs_by_gradients_impute_alike(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data", folder / "holes.csv")
    base = ("fit", "ppca", *data, "--drop", "Unnamed: 0,kind", "--steps", 30, "--out", tmp_path / "run", "--quiet")
    assert run(capsys, *base)[0] == 0
    assert run(capsys, "impute", tmp_path / "run", *data, "--out", tmp_path / "filled.csv", "--quiet")[0] == 0
    filled = pd.read_csv(tmp_path / "filled.csv")[NAMES].to_numpy()
    mean, covariance = gaussian_of(tmp_path / "run")
    for row, values in zip(holes(), filled, strict=True):
        gone = np.isnan(row)
        best = conditional(row, mean, covariance)[0] if gone.any() else values[gone]
        np.testing.assert_allclose(values[gone], best, atol=1e-5 * np.sqrt(np.diag(covariance)).max())


def test_draws_spread_as_the_conditional_gaussian(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = folder / "draws.csv", folder / "again.csv"
    base = ("impute", folder / "run", "--data", folder / "holes.csv", "--draws", 400)
    assert run(capsys, *base, "--out", out, "--quiet") == (0, "", "")
    assert run(capsys, *base, "--out", again, "--seed", 0, "--quiet")[0] == 0
    assert out.read_bytes() == again.read_bytes()
    frame = pd.read_csv(out)
    assert list(frame.columns[2:]) == ["kind", *NAMES]
    assert out.read_text().startswith("draw,,kind,")
    assert (frame["draw"] == np.repeat(np.arange(1, 401), 60)).all()
    draws = frame[NAMES].to_numpy().reshape(400, 60, 5)
    mean, covariance = gaussian_of(folder / "run")
    x = holes()
    for index in np.flatnonzero(np.isnan(x).any(1)):
        gone = np.isnan(x[index])
        best, spread = conditional(x[index], mean, covariance)
        scale = np.sqrt(np.diag(spread))
        drawn = (draws[:, index, gone] - best) / scale
        # Five standard errors, of 400 draws.
        np.testing.assert_allclose(drawn.mean(0), 0, atol=5 / 20)
        np.testing.assert_allclose(np.cov(drawn.T), spread / np.outer(scale, scale), atol=5 * math.sqrt(2) / 20)


def test_other_tables_of_the_same_columns(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Columns are found by name wherever they are; a single row will do.
    frame = pd.read_csv(folder / "holes.csv", dtype=str, keep_default_na=False)[["age", *NAMES[:4], "kind"]]
    frame.iloc[[1]].to_csv(tmp_path / "one.tsv", sep="\t", index=False)
    code, printed, err = run(
        capsys, "impute", folder / "run", "--data", tmp_path / "one.tsv", "--out", tmp_path / "filled.tsv", "--json"
    )
    assert code == 0, err
    assert json.loads(printed)["num_rows"] == 1
    run(capsys, "impute", folder / "run", "--data", folder / "holes.csv", "--out", tmp_path / "all.csv")
    one, every = pd.read_csv(tmp_path / "filled.tsv", sep="\t"), pd.read_csv(tmp_path / "all.csv")
    np.testing.assert_allclose(one[NAMES].to_numpy()[0], every[NAMES].to_numpy()[1], rtol=1e-6)
    # Without names, by place.
    np.save(tmp_path / "holes.npy", holes())
    base = ("impute", folder / "run", "--data", tmp_path / "holes.npy")
    assert run(capsys, *base, "--out", tmp_path / "filled.npy", "--quiet")[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "filled.npy"), every[NAMES], rtol=1e-5, atol=1e-5)
    assert run(capsys, *base, "--out", tmp_path / "draws.npy", "--draws", 3, "--quiet")[0] == 0
    assert np.load(tmp_path / "draws.npy").shape == (3, 60, 5)


def test_nothing_missing_is_copied(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_table(tmp_path / "whole.csv", ROWS)
    code, printed, _ = run(capsys, "impute", folder / "run", "--data", path, "--out", tmp_path / "copy.csv")
    assert code == 0
    assert "no entry is missing" in printed
    assert (tmp_path / "copy.csv").read_bytes() == path.read_bytes()


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a pair of a file, whose model knows nothing exactly."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "pair.py").write_text(
        "import pyro, torch\nfrom pyro.distributions import Normal\nfrom pyro_lvm import data_plate, observe\n"
        "def model(x):\n    loc = pyro.param('loc', torch.zeros(x.shape[1]))\n    with data_plate(x):\n"
        "        z = pyro.sample('z', Normal(0., 1.))\n        observe('x', Normal(loc + z[:, None], 1.), x)\n"
        "def guide(x):\n    slope = pyro.param('slope', torch.zeros(()))\n    with data_plate(x):\n"
        "        pyro.sample('z', Normal(slope * x.mean(-1), 1.))\n"
    )
    np.save(folder / "rows.npy", ROWS)
    options = ("--data", f"{folder}/rows.npy", "--steps", "3", "--out", f"{folder}/run", "--quiet")
    with pytest.raises(SystemExit):
        main(["fit", f"{folder}/pair.py:model,guide", *options])
    return folder


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, (), "there is no file"),
        ("", (), "empty"),
        ("length,width,height,weight\n1,2,3,\n", (), "no column 'age', which the run was fitted to"),
        ("length,width,height,weight,age\n1,2,3,,x\n", (), "column 'age' of t.csv isn't numeric: 'x' in row 1"),
        ("length,width,height,weight,age\n1,2,3,,inf\n", (), "'age'"),
        ("length,width,height,weight,age\n1,2,3,,5,6\n", (), "fields in line 2"),
        ("length,width,height,weight,age\n1,2,3,,5\n", ("--draws", "0"), "draws=0"),
        ("length,width,height,weight,age\n1,2,3,,5\n", ("--seed", "-1"), "seed=-1"),
        ("length,width,height,weight,age\n1,2,3,,5\n", ("--draws", "1", "--seed", "4294967296"), "less than 2^32"),
        ("length,width,height,weight,age\n1,2,3,?,5\n", (), "or write NA); the run was fitted to this column"),
        ("length,width,height,weight,age,draw\n1,2,3,,5,6\n", ("--draws", "2"), "has a column 'draw' already"),
        ("length,width,height,weight,age\n1,2,3,,5\n", ("--out", "o.parquet"), "a file of the same ending"),
    ],
    ids=[
        "no file",
        "empty",
        "columns",
        "text",
        "infinity",
        "ragged",
        "draws",
        "seed",
        "large seed",
        "mark",
        "draw",
        "ending",
    ],
)
def test_imputation_refuses_what_it_cannot_use(
    text: str | None,
    arguments: tuple[str, ...],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("t.csv").write_text(text)
    given = ("--out", "o.csv", *arguments)
    assert message in refused(capsys, "impute", folder / "run", "--data", "t.csv", *given)
    assert {path.name for path in tmp_path.iterdir()} <= {"t.csv"}


def test_imputation_refuses_runs_and_files(
    folder: Path, other_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = folder / "holes.csv", tmp_path / "there.csv"
    out.write_text("precious")
    base = ("impute", folder / "run", "--data", table)
    assert "replace it with --force" in refused(capsys, *base, "--out", out)
    assert out.read_text() == "precious"
    assert run(capsys, *base, "--out", out, "--force", "--quiet")[0] == 0
    assert out.read_text() != "precious"
    assert "holds no run" in refused(capsys, "impute", tmp_path, "--data", table, "--out", tmp_path / "o.csv")
    assert "expected one that ends in" in refused(
        capsys, "impute", folder / "run", "--data", "digits", "--out", tmp_path / "digits"
    )
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.filterwarnings("ignore:of .* rows less than 1%")
def test_a_pair_of_a_file_imputes_by_draws(other_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: whoever writes a model of their own would have to fill holes by hand."""
    holes = ROWS[:9].copy()
    holes[::2, 1] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    base = ("--pair", f"{other_run}/pair.py:model,guide", "--data", tmp_path / "holes.npy", "--quiet")
    for options, shape in (((), holes.shape), (("--draws", 3), (3, *holes.shape))):
        out = tmp_path / f"{len(shape)}.npy"
        assert run(capsys, "impute", other_run / "run", *base, "--out", out, *options)[0] == 0
        filled = np.load(out)
        assert filled.shape == shape
        assert np.isfinite(filled).all()
        assert (filled[..., ~np.isnan(holes)] == holes[~np.isnan(holes)]).all()


def test_draws_of_a_table_without_rows(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "none.npy", np.empty((0, 5)))
    base = ("impute", folder / "run", "--data", tmp_path / "none.npy", "--out", tmp_path / "out.npy", "--draws", 2)
    code, printed, err = run(capsys, *base)
    assert (code, err) == (0, "")
    assert "saved 2 draws" in printed
    assert np.load(tmp_path / "out.npy").shape == (2, 0, 5)


@pytest.mark.parametrize(
    ("section", "name", "value"), [("data", "shape", None), ("data", "shape", [5]), (None, "features", 5)]
)
def test_a_damaged_configuration_is_told_in_one_line(
    section: str | None,
    name: str,
    value: object,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    (config if section is None else config[section])[name] = value
    path.write_text(json.dumps(config))
    table = ("--data", folder / "holes.csv", "--out", tmp_path / "out.csv")
    for command in ("impute", "embed"):
        assert "is damaged" in refused(capsys, command, tmp_path / "run", *table)


# ------------------------------------------------------------------ embed


def test_embedding_is_the_posterior_of_the_joint_gaussian(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: coordinates of scaled rows would be computed from unscaled ones, or the rows be shuffled.
    out = folder / "z.csv"
    code, printed, err = run(capsys, "embed", folder / "run", "--out", out)
    assert code == 0, err
    assert "saved 60 rows" in printed
    frame = pd.read_csv(out, dtype={0: str, 1: str}, keep_default_na=False)
    assert list(frame.columns) == ["Unnamed: 0", "kind", "z1", "z2", "z1_sd", "z2_sd"]
    assert list(frame["Unnamed: 0"][:3]) == ["000", "001", "002"]
    assert list(frame["kind"][:2]) == ["NA", "oak, old"]
    mean, covariance = gaussian_of(folder / "run")
    divisor = np.array(json.loads((folder / "run" / "config.json").read_text())["scaling"]["divisor"])
    w = load(folder / "run").pair.model.loadings.detach().double().numpy() * divisor[:, None]
    for i, row in enumerate(holes()):
        seen = ~np.isnan(row)
        gain = w[seen].T @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        np.testing.assert_allclose(frame.loc[i, ["z1", "z2"]].astype(float), gain @ (row - mean)[seen], atol=1e-5)
        deviation = np.sqrt(np.diag(np.eye(2) - gain @ w[seen]))
        np.testing.assert_allclose(frame.loc[i, ["z1_sd", "z2_sd"]].astype(float), deviation, atol=1e-5)
    # The guide stands at the exact posterior.
    assert run(capsys, "embed", folder / "run", "--posterior", "guide", "--out", folder / "g.tsv", "--quiet")[0] == 0
    guide = pd.read_csv(folder / "g.tsv", sep="\t")
    np.testing.assert_allclose(guide[["z1", "z2", "z1_sd"]], frame[["z1", "z2", "z1_sd"]].astype(float), atol=1e-4)


def test_named_data_come_with_their_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(capsys, "fit", "ppca", "--method", "closed", "--out", out, "--quiet")[0] == 0
    code, printed, err = run(capsys, "embed", out, "--out", tmp_path / "z.parquet", "--json")
    assert code == 0, err
    assert json.loads(printed) == {"num_rows": 1797, "columns": ["label", "z1", "z2", "z1_sd", "z2_sd"]}
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    frame = pd.read_parquet(tmp_path / "z.parquet")
    assert (frame["label"].astype(int) == y).all()
    expected = em.PPCA(2).fit(x / 16).transform(x / 16)
    np.testing.assert_allclose(frame[["z1", "z2"]], expected, atol=1e-5)


def test_a_run_embeds_no_other_rows_as_its_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Wrong: a table that was edited since would go out under the name of the run's own rows.
    table, out = tmp_path / "holes.csv", tmp_path / "z.csv"
    shutil.copy(folder / "holes.csv", table)
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace(str(folder / "holes.csv"), str(table)))
    table.write_text(table.read_text().replace(f"{ROWS[0, 0]:.6f}", f"{ROWS[0, 0] + 1:.6f}"))
    assert "is not what" in refused(capsys, "embed", tmp_path / "run", "--out", out)
    assert not out.exists()
    # Asked for by name they are rows like any others.
    assert run(capsys, "embed", tmp_path / "run", "--data", table, "--out", out, "--quiet")[0] == 0


def test_embedding_refuses_what_it_cannot_use(
    folder: Path, other_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "z.csv"
    base = ("embed", folder / "run", "--out")
    assert "--posterior best" in refused(capsys, *base, out, "--posterior", "best")
    assert "ending" in refused(capsys, *base, tmp_path / "z.npy")
    assert "has 64 features, but the run was fitted to 5" in refused(capsys, *base, out, "--data", "digits")
    (tmp_path / "t.csv").write_text(",".join([*NAMES, "z1"]) + "\n1,2,3,4,5,6\n")
    assert "has a column 'z1' already" in refused(capsys, *base, out, "--data", tmp_path / "t.csv")
    pair = ("--pair", f"{other_run}/pair.py:model,guide")
    assert "no encode" in refused(capsys, "embed", other_run / "run", *pair, "--out", out)
    assert "no exact posterior" in refused(
        capsys, "embed", other_run / "run", *pair, "--out", out, "--posterior", "exact"
    )
    assert not out.exists()


# ------------------------------------------------------------------ select


def test_selection_finds_the_planted_dimension(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: the number that a person is told to take would not be the one the criterion prefers.
    x = holes() / [1, 10, 0.1, 100, 1]  # the noise as it was planted, the same in all features
    base = ("select", "ppca", "--data", write_table(tmp_path / "t.csv", x), "--drop", "Unnamed: 0,kind")
    base += ("--range", "1:3", "--criterion", "bic")
    out = tmp_path / "curve"
    code, printed, err = run(capsys, *base, "--out", out)
    assert code == 0, err
    assert "best" in next(line for line in printed.splitlines() if " 2 " in line)
    frame = pd.read_csv(out / "curve.csv")
    assert list(frame["n_components"]) == [1, 2, 3]
    assert frame["score"].argmin() == 1
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "replace it with --force" in refused(capsys, *base, "--out", out)
    # Fits to scaled features are compared in the data's own units.
    code, printed, err = run(capsys, *base, "--scale", "standard", "--json")
    mean, scale = np.nanmean(x, 0), np.nanstd(x, 0)
    estimator = em.PPCA(2, random_state=0).fit((x - mean) / scale)
    log_density = estimator.score_samples((x - mean) / scale).sum() - (~np.isnan(x) @ np.log(scale)).sum()
    # 5 x 2 loadings less one rotation, 5 means, one noise variance.
    expected = -2 * log_density + 15 * math.log(60)
    assert json.loads(printed)["curve"][1]["score"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("criterion", ["evidence", "imputation", "laplace"])
def test_every_criterion_gives_its_curve(criterion: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (ROWS / ROWS.std(0)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    base = ("select", "ppca", "--data", tmp_path / "rows.npy", "--range", "1:3", "--criterion", criterion)
    code, printed, err = run(capsys, *base, "--seed", 3, "--json")
    assert code == 0, err
    curve = em.select(em.PPCA(random_state=3), rows, range(1, 4), criterion=criterion, random_state=3)
    found = json.loads(printed)
    assert (found["best"], found["criterion"], found["parameter"]) == (curve.best, criterion, "n_components")
    assert [point["score"] for point in found["curve"]] == pytest.approx(curve.scores, rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--range", "a:b"), "--range a:b: expected whole numbers"),
        (("--range", "3:1"), "--range 3:1: expected whole numbers"),
        (("--range", "0:3"), "--range 0:3: expected whole numbers"),
        (("--range", "2,2"), "--range 2,2: expected whole numbers"),
        (("--range", "1:99999999999"), "at most 10,000"),
        (("--range", "64:64"), "n_components=64"),
        (("--range", "1:2", "--criterion", "luck"), "criterion='luck'"),
        (("--range", "1:2", "--parameter", "depth"), "no parameter 'depth'"),
        (("--range", "1:2", "--option", "depth=1"), "no option 'depth'"),
        (("--range", "1:2", "--option", "tol=-1"), "tol=-1"),
        (("--range", "1:2", "--scale", "log"), "--scale log"),
        ((), "--range"),
    ],
)
def test_selection_refuses_what_it_cannot_use(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "select", "ppca", "--out", tmp_path / "out", *arguments)
    assert not list((tmp_path / "out").glob("*"))


def test_a_size_too_large_is_refused_before_the_others_are_fitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wrong: hours of fits would be lost to the last candidate.
    sizes = []
    fit = em.PPCA.fit
    monkeypatch.setattr(em.PPCA, "fit", lambda self, x: sizes.append(self.n_components) or fit(self, x))
    np.save(tmp_path / "rows.npy", ROWS / ROWS.std(0))
    message = refused(capsys, "select", "ppca", "--data", tmp_path / "rows.npy", "--range", "1:5")
    assert "expected a whole number from 1 to 4" in message
    assert sizes == [5]


def test_pairs_without_an_estimator_are_refused(other_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = f"{other_run}/pair.py:model,guide"
    assert "has no estimator" in refused(capsys, "select", pair, "--range", "1:2")
    assert "has none: use method 'svi'" in refused(
        capsys, "fit", pair, "--method", "em", "--data", other_run / "rows.npy"
    )


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("impute", "embed", "select"):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        assert f"pyro-lvm {command}" in out
