"""The pairs for factors, holes and mixtures on the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyro_lvm.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 2)) @ rng.normal(size=(2, 5)) + 0.4 * rng.normal(size=(150, 5))
    x[::2] += 4
    x[rng.random(x.shape) < 0.2] = math.nan
    path = tmp_path_factory.mktemp("pairs") / "holes.csv"
    pd.DataFrame(x, columns=list("abcde")).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("pair", "options", "kept"),
    [
        ("factor-analysis", ("--latent-dim", 2), "kl_to_exact"),
        ("ppca", ("--latent-dim", 2), "kl_to_exact"),
        ("mixture-ppca", ("--latent-dim", 1, "--components", 2, "--estimator", "baseline"), "kl_to_exact"),
        ("bayesian-pca", ("--latent-dim", 3), "plug_in_evidence"),
    ],
)
def test_a_table_with_holes_is_fitted_saved_and_graded_again(
    capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path, pair: str, options: tuple[object, ...], kept: str
) -> None:
    # Wrong: a pair would work in Python alone, or not come back from its run.
    out = tmp_path / "run"
    code, printed, errors = run(
        capsys, "fit", pair, "--data", table, "--scale", "standard", *options, "--steps", 60, "--out", out, "--json"
    )
    assert code == 0, errors
    metrics = json.loads(printed)
    assert math.isfinite(metrics[kept])
    assert metrics["guide"] in ("experts", "shared")
    code, printed, errors = run(capsys, "evaluate", out, "--json")
    assert code == 0, errors
    assert json.loads(printed)[kept] == pytest.approx(metrics[kept], rel=1e-6)
    assert json.loads(printed)["elbo"] == pytest.approx(metrics["elbo"], rel=1e-6)
    assert run(capsys, "check", out)[0] == 0


def test_scaling_is_undone_in_the_plug_in_evidence(
    capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path
) -> None:
    # Wrong: the same fit would be worth more nats in other units.
    frame = pd.read_csv(table) * 1000
    frame.to_csv(tmp_path / "thousand.csv", index=False)
    found = []
    for path in (table, tmp_path / "thousand.csv"):
        options = ("--latent-dim", 2, "--steps", 30, "--scale", "standard", "--json")
        code, printed, errors = run(capsys, "fit", "bayesian-pca", "--data", path, *options)
        assert code == 0, errors
        found.append(json.loads(printed)["plug_in_evidence"])
    observed = int(frame.notna().to_numpy().sum()) / len(frame)
    assert found[0] - found[1] == pytest.approx(observed * math.log(1000), abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mixture-ppca", "--estimator", "reparameterized"), "expected one of enumerate, score, baseline"),
        (("mixture-ppca", "--components", 0), "num_components=0: expected a whole number from 1 up"),
        (("mixture-ppca", "--components", 151), "num_components=151 with 150 rows"),
        (("mixture-ppca", "--latent-dim", 5), "latent_dim=5 with 5 features"),
        (("factor-analysis", "--latent-dim", 5), "latent_dim=5 with 5 features"),
        (("factor-analysis", "--option", "noise_floor=2"), "noise_floor=2: expected a number between 0 and 1"),
        (("factor-analysis", "--guide", "full"), "cannot take: use a guide that accepts missing entries"),
        (("bayesian-pca", "--method", "em"), "needs an estimator"),
        (("ppca", "--components", 3), "no option 'num_components'"),
        (("ppca", "--estimator", "score"), "no option 'estimator'"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    out = tmp_path / "run"
    code, _, errors = run(capsys, "fit", *arguments, "--data", table, "--out", out, "--quiet")
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not out.exists()


def test_scaled_counts_of_a_pair_of_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong: a person looks for a fault in the pair, where the rows that it was given are counts no more."""
    pair = tmp_path / "pair.py"
    pair.write_text(
        """import pyro, torch
from torch.distributions import constraints
from pyro.distributions import Gamma, LogNormal, Poisson
from pyro_lvm import data_plate, observe

def model(x):
    rate = pyro.param("rate", torch.ones(x.shape[1]), constraint=constraints.positive)
    with data_plate(x):
        z = pyro.sample("z", Gamma(2.0, 2.0))
        observe("x", Poisson(rate * z[:, None]), x)

def guide(x):
    with data_plate(x):
        pyro.sample("z", LogNormal(x.sum(-1).log1p(), 0.5))
"""
    )
    counts = np.random.default_rng(0).poisson(2.0, size=(60, 4))
    pd.DataFrame(counts, columns=list("abcd")).to_csv(tmp_path / "counts.csv", index=False)
    base = ("fit", f"{pair}:model,guide", "--data", tmp_path / "counts.csv", "--steps", 2)
    code, _, err = run(capsys, *base, "--scale", "standard")
    assert code == 2
    assert "leave out --scale" in err
    assert len(err.strip().splitlines()) == 1
    code, out, err = run(capsys, *base)
    assert code == 0, err
    # The file's name says which guide it is.
    assert "guide)" not in out
