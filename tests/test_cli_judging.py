"""``evidence``, ``gap``, ``judge`` and ``latent-map`` on the command line; the evidence against SciPy's Gaussian."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pyro_lvm import load
from pyro_lvm.cli import main

_RNG = np.random.default_rng(0)
ROWS = (_RNG.normal(size=(90, 2)) @ _RNG.normal(size=(2, 5)) + 0.4 * _RNG.normal(size=(90, 5))) * [1, 20, 0.1, 3, 1]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed-form PPCA on a standardised table with a label, 30 of its 90 rows held out."""
    folder = tmp_path_factory.mktemp("judged")
    table = pd.DataFrame(ROWS, columns=list("abcde")).assign(kind=np.where(ROWS[:, 0] > 0, "up", "down"))
    table.to_csv(folder / "table.csv", index=False)
    fit = ["fit", "ppca", "--method", "closed", "--data", folder / "table.csv", "--label", "kind"]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, fit), "--scale", "standard", "--validation", "0.3333", "--out", str(folder / "run"), "--quiet"])
    assert not ended.value.code
    return folder


def log_densities(folder: Path, rows: np.ndarray) -> np.ndarray:
    saved = load(folder / "run")
    shift, divisor = (np.array(saved.config["scaling"][name]) for name in ("shift", "divisor"))
    model = saved.pair.model
    w, mean = (getattr(model, name).detach().double().numpy() for name in ("loadings", "mean"))
    covariance = (w @ w.T + float(model.noise_variance.detach()) * np.eye(5)) * np.outer(divisor, divisor)
    return stats.multivariate_normal(shift + divisor * mean, covariance).logpdf(rows)


def test_evidence_of_given_rows_in_the_datas_units(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: nats of the scaled rows, which no other model's compare with."""
    arguments = ("evidence", folder / "run", "--k", 20, "--data", folder / "table.csv", "--label", "kind", "--json")
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    figures = json.loads(out)
    truth = log_densities(folder, ROWS)
    assert (figures["rows"], figures["num_rows"], figures["iwae"]["num_particles"]) == ("training", 90, 20)
    for kind in ("exact", "iwae", "elbo"):
        assert figures[kind]["mean"] == pytest.approx(truth.mean(), abs=1e-4)
        assert figures[kind]["row_standard_error"] == pytest.approx(truth.std(ddof=1) / np.sqrt(90), rel=1e-3)
    terms = figures["terms"]
    error = terms["reconstruction_standard_error"]
    assert terms["reconstruction"] - terms["kl"] == pytest.approx(truth.mean(), abs=5 * error)


def test_evidence_is_of_the_held_out_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: a model is praised for the rows that it was trained on. A part is a part of them, at random."""
    whole = json.loads(run(capsys, "evidence", folder / "run", "--k", 3, "--json")[1])
    part = json.loads(run(capsys, "evidence", folder / "run", "--k", 3, "--rows", 10, "--json")[1])
    assert (whole["rows"], whole["num_rows"], part["num_rows"]) == ("held-out", 30, 10)
    assert whole["exact"]["mean"] != part["exact"]["mean"]
    code, out, _ = run(capsys, "evidence", folder / "run", "--k", 3)
    assert code == 0
    assert "evidence of 30 held-out rows" in out
    assert "importance-weighted, k = 3" in out


def test_latent_draws_what_applies_to_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: images of a table, or no pictures at all."""
    code, out, err = run(capsys, "latent-map", folder / "run", "--out", folder / "pictures", "--json")
    assert code == 0, err
    figures = json.loads(out)
    assert figures["written"] == ["prior_and_posterior.png", "kl_per_dimension.png", "traversals.png"]
    assert all((folder / "pictures" / name).stat().st_size > 5000 for name in figures["written"])
    kept = figures["neighbourhoods"]
    assert kept["num_rows"] == 90
    assert 0.7 < kept["accuracy"] <= 1


@pytest.mark.parametrize("columns", [2, 1])
def test_latent_draws_images(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong: a picture fails on digits, or on a single latent coordinate, which has no plane."""
    monkeypatch.setattr("pyro_lvm.plots.files.DPI", 30)
    fit = ("fit", "ppca", "--method", "closed", "--data", "digits", "--latent-dim", columns, "--out", tmp_path / "run")
    assert run(capsys, *fit, "--quiet")[0] == 0
    code, out, err = run(capsys, "latent-map", tmp_path / "run", "--out", tmp_path / "pictures")
    assert code == 0, err
    names = {path.stem for path in (tmp_path / "pictures").iterdir()}
    expected = {"prior_and_posterior", "traversals", "interpolations", "near_classes", "nearest_rows"}
    expected |= {"reconstructions"} | ({"kl_per_dimension", "decoded_grid"} if columns == 2 else set())
    assert names == expected
    assert "trustworthiness" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evidence", "RUN", "--k", 0), "k=0"),
        (("evidence", "RUN", "--rows", 0), "rows=0"),
        (("evidence", "RUN", "--data", "digits"), "64 features"),
        (("latent-map", "RUN", "--out", "OUT", "--site", "w"), "site='w'"),
        (("latent-map", "RUN", "--out", "OUT", "--neighbours", 80), "num_neighbours=80"),
        (("latent-map", "RUN", "--out", "RUN/metrics.json"), "can't write figures"),
        (("evidence", "RUN", "--ais", "--chains", 0), "chains=0"),
        (("gap", "RUN", "--rows", 0), "rows=0"),
        (("judge", "RUN", "--rows", 0), "rows=0"),
        (("judge", "RUN", "--data", "digits"), "64 features"),
        (("judge", "RUN", "--out", "RUN/metrics.json"), "can't write figures"),
        (("evidence", "nowhere"), "nowhere"),
    ],
)
def test_bad_input(arguments: tuple[object, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: a traceback, or figures of something that wasn't asked for."""
    places = {"RUN": folder / "run", "OUT": folder / "refused", "RUN/metrics.json": folder / "run" / "metrics.json"}
    code, out, err = run(capsys, *(places.get(str(a), a) for a in arguments))
    assert code == 2, err
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_evidence_bounded_from_both_sides(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: bounds of the scaled rows, or of other rows than the table's."""
    code, out, err = run(
        capsys, "evidence", folder / "run", "--k", 3, "--ais", "--temperatures", 40, "--chains", 8, "--json"
    )
    assert code == 0, err
    figures = json.loads(out)
    error = figures["ais"]["particle_standard_error"]
    assert figures["num_rows"] == figures["ais"]["num_rows"] == 30
    assert figures["exact"]["mean"] - 0.6 < figures["ais"]["mean"] < figures["exact"]["mean"] + 4 * error
    assert 0.4 < figures["ais"]["acceptance_mean"] < 0.9
    both = figures["sandwich"]
    assert both["width"] == pytest.approx(both["upper"]["mean"] - both["lower"]["mean"])
    assert 0 < both["width"] < 1.5
    code, out, _ = run(capsys, "evidence", folder / "run", "--k", 3, "--ais", "--temperatures", 3, "--rows", 5)
    assert code == 0
    for said in ("annealed, chains = 16", "moves accepted", "upper less lower"):
        assert said in out


def test_gap_of_training_and_held_out_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: a closed form's guide is blamed for something, or the figure isn't written."""
    code, out, err = run(capsys, "gap", folder / "run", "--rows", 10, "--out", folder / "gap", "--json")
    assert code == 0, err
    figures = json.loads(out)
    truth = log_densities(folder, ROWS)
    for part in ("training", "held_out"):
        assert abs(figures[part]["approximation"]) < 0.01
        assert abs(figures[part]["amortization"]) < 0.01
        assert truth.min() < figures[part]["evidence"]["mean"] < truth.max()
    assert "better model" in figures["advice"]
    assert (folder / "gap" / "gap.png").stat().st_size > 5000
    code, out, _ = run(capsys, "gap", folder / "run", "--rows", 4)
    assert code == 0
    assert "approximation gap" in out


def test_judgement_of_a_closed_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: a closed form's guide is blamed, the evidence is that of scaled rows, or a figure isn't written."""
    code, out, err = run(capsys, "judge", folder / "run", "--rows", 30, "--out", folder / "judgement", "--json")
    assert code == 0, err
    found = json.loads(out)
    levels = {verdict["name"]: verdict["level"] for verdict in found["verdicts"]}
    for name in ("contract", "evidence", "posterior", "family", "encoder", "overfitting", "weights", "calibration"):
        assert levels[name] == "good", found
    assert (found["rows"], found["num_rows"], found["budget"], found["left_out"]) == ("held-out", 30, "quick", 0)
    evidence = json.loads(run(capsys, "evidence", folder / "run", "--k", 2, "--json")[1])
    said = next(verdict["figures"] for verdict in found["verdicts"] if verdict["name"] == "evidence")
    assert said["exact"] == pytest.approx(evidence["exact"]["mean"], abs=1e-6)
    assert found["written"] == ["gap.png", "weights.png", "ranks.png", "coverage.png"]
    assert all((folder / "judgement" / name).stat().st_size > 5000 for name in found["written"])


def test_judgement_of_given_rows_as_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: a person can't read which rows they were, or what to do."""
    code, out, err = run(capsys, "judge", folder / "run", "--data", folder / "table.csv", "--label", "kind")
    assert code == 0, err
    assert "is the posterior right? 8 training rows, quick budget" in out
    assert "KL(q || posterior)" in out
    assert "calibration good (" in err


def test_a_run_whose_pair_breaks_the_contract_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: a script takes the run for sound."""
    np.save(tmp_path / "x.npy", ROWS)
    pair = tmp_path / "pair.py"
    source = """import pyro, torch
from pyro.distributions import Normal
from pyro_lvm import data_plate, observe

def model(x):
    noise = pyro.param("noise", torch.tensor(1.0))
    with data_plate(x):
        z = pyro.sample("z", Normal(x.new_zeros(len(x)), 1.0))
        observe("x", Normal(z[:, None].expand(x.shape), noise.exp()), x)

def guide(x):
    slope = pyro.param("slope", torch.tensor(0.1))
    with data_plate(x):
        pyro.sample("z", Normal(slope * x[:, 0], 1.0))
"""
    pair.write_text(source)
    fit = (
        "fit",
        f"{pair}:model,guide",
        "--data",
        tmp_path / "x.npy",
        "--steps",
        3,
        "--scale",
        "standard",
        "--no-compile",
    )
    assert run(capsys, *fit, "--out", tmp_path / "run", "--quiet")[0] == 0
    pair.write_text(source.replace('pyro.sample("z", Normal(slope', 'pyro.sample("w", Normal(slope'))
    code, out, _ = run(capsys, "judge", tmp_path / "run", "--pair", f"{pair}:model,guide")
    assert code == 2
    assert "breaks its contract" in " ".join(out.split())
