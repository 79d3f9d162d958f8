"""The examples run as a reader runs them: as scripts, in a folder of their own, and what they print is true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from pyro_lvm import linear_gaussian

EXAMPLES = Path(__file__).parents[1] / "examples"
FIGURE = Path("runs/examples/ppca_digits.png")
NUMBERS = {
    "optimum": "log-evidence of the best model",
    "log_evidence": "log-evidence of the trained model",
    "gap": "gap",
    "kl": "KL",
    "elbo_exact": "ELBO by the algebra",
    "elbo": "ELBO by Pyro's draws",
}


def run_digits(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "ppca_digits.py"), *arguments],
        cwd=folder,
        env=os.environ | {"MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )


def table_of(printed: str) -> dict[str, float]:
    """The number in each of the table's lines."""
    lines = {name: re.search(rf"^{re.escape(begin)}.*? (-?\d+\.\d+)", printed, re.M) for name, begin in NUMBERS.items()}
    assert all(lines.values()), printed
    return {name: float(line[1]) for name, line in lines.items() if line}


def error_of(printed: str) -> float:
    """The standard error of the ELBO by draws."""
    return float(printed.partition("+- ")[2].split()[0])


class TestPpcaDigits:
    def test_a_short_run_prints_the_table_and_writes_the_figure(self, tmp_path, digits):
        """A reader's first command must not end in a traceback, nor with figures that contradict each other."""
        run = run_digits(tmp_path, "--steps", "200")
        assert run.returncode == 0, run.stderr
        assert "Warning" not in run.stderr
        table = table_of(run.stdout)
        best = linear_gaussian.maximum_likelihood(digits, 8)
        optimum = linear_gaussian.log_evidence(digits, best.loadings, best.mean, best.noise_variance).mean()
        assert table["optimum"] == pytest.approx(float(optimum), abs=1e-6)
        assert table["gap"] == pytest.approx(table["optimum"] - table["log_evidence"], abs=2e-6)
        # Two hundred steps are not enough, so that a gap or a KL of zero would be one that is not computed.
        assert table["gap"] > 0.01
        assert table["kl"] > 0.01
        assert abs(table["elbo"] - table["elbo_exact"]) < 5 * error_of(run.stdout) + 1e-4
        image = matplotlib.image.imread(tmp_path / FIGURE)
        assert image.shape[0] > 400
        assert np.ptp(image) > 0.5

    def test_a_run_of_one_step_draws(self, tmp_path):
        """The shortest curve has one point."""
        run = run_digits(tmp_path, "--steps", "1")
        assert run.returncode == 0, run.stderr
        assert (tmp_path / FIGURE).exists()

    @pytest.mark.slow
    def test_the_full_run_reaches_the_optimum(self, tmp_path):
        """It is the example's claim: the model at the best there is, the guide at the exact posterior."""
        run = run_digits(tmp_path)
        assert run.returncode == 0, run.stderr
        table = table_of(run.stdout)
        assert table["optimum"] == pytest.approx(14.2097883, abs=1e-6)
        assert 0 < table["gap"] < 1e-3
        assert 0 < table["kl"] < 2e-3
        assert abs(table["elbo"] - table["elbo_exact"]) < 5 * error_of(run.stdout)


class TestMissingEntries:
    def run(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(EXAMPLES / "missing_entries.py"), *arguments],
            cwd=folder,
            env=os.environ | {"MPLBACKEND": "Agg"},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_intervals_hold_the_truth_as_often_as_they_say(self, tmp_path):
        """It is the example's claim: of 90% intervals about nine in ten hold what was hidden."""
        run = self.run(tmp_path)
        assert run.returncode == 0, run.stderr
        assert "Warning" not in run.stderr
        covered = re.search(r"hold the truth in (\d+\.\d)% of (\d+) hidden", run.stdout)
        assert covered is not None, run.stdout
        assert 85 <= float(covered[1]) <= 95
        errors = re.search(r"error: (\d\.\d+) standard deviations; column means: (\d\.\d+)", run.stdout)
        assert errors is not None, run.stdout
        assert float(errors[1]) < 0.75 * float(errors[2])
        image = matplotlib.image.imread(tmp_path / "runs/examples/missing_entries.png")
        assert np.ptp(image) > 0.5

    def test_a_table_with_gaps_of_its_own_is_filled(self, tmp_path):
        """Nobody's table but the example's would do otherwise; observed cells must come back as they were."""
        root = os.environ.get("PYRO_LVM_DATA")
        table = None if root is None else Path(root) / "airquality" / "airquality.csv"
        if table is None or not table.exists():
            pytest.skip("no airquality/airquality.csv under PYRO_LVM_DATA")
        run = self.run(tmp_path, "--data", str(table), "--drop", "rownames,Day", "--log", "Ozone")
        assert run.returncode == 0, run.stderr
        covered = re.search(r"hold the truth in (\d+\.\d)%", run.stdout)
        assert covered is not None, run.stdout
        assert 85 <= float(covered[1]) <= 95
        before, after = pd.read_csv(table), pd.read_csv(tmp_path / "runs/examples/missing_entries.csv")
        assert after.notna().all().all()
        for name in after.columns:
            known = before[name].notna()
            np.testing.assert_allclose(after[name][known], before[name][known])


class TestVaeDigits:
    def test_a_short_run_prints_bounds_in_order_and_draws(self, tmp_path):
        """The importance-weighted bound lies above the ELBO, and every figure is there."""
        run = subprocess.run(
            [sys.executable, str(EXAMPLES / "vae_digits.py"), "--steps", "300"],
            cwd=tmp_path,
            env=os.environ | {"MPLBACKEND": "Agg"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        bounds = re.findall(r"ELBO (-?\d+\.\d+), 500 importance samples (-?\d+\.\d+)", run.stdout)
        assert len(bounds) == 2, run.stdout
        assert all(float(lower) < float(tighter) for lower, tighter in bounds)
        for name in ("", "_prior", "_reconstructions"):
            assert np.ptp(matplotlib.image.imread(tmp_path / f"runs/examples/vae_digits{name}.png")) > 0.5


def run(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints; its figure is there and shows something."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=folder,
        env=os.environ | {"MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    image = matplotlib.image.imread(folder / f"runs/examples/{name}.png")
    assert image.shape[0] > 400
    assert np.ptp(image) > 0.5
    return done.stdout


def figures_of(printed: str, begin: str) -> list[float]:
    """The numbers that end the first line which begins so, in a table's cells or in columns."""
    line = re.search(rf"^\W*{re.escape(begin)}(.*)$", printed, re.M)
    assert line is not None, printed
    return [float(number) for number in re.findall(r"(?<![\w.])[-+]?\d+\.\d+(?:e[-+]\d+)?", line[1])]


class TestFactorAnalysis:
    def test_a_short_run_grades_itself_and_beats_ppca(self, tmp_path):
        """It is the example's claim: noise of each measurement's own is what wines need, whatever is missing."""
        printed = run("factor_analysis", tmp_path, "--steps", "150")
        best, trained, gap = (
            figures_of(printed, begin)[0] for begin in ("best log-evidence", "log-evidence of the model", "gap")
        )
        assert gap == pytest.approx(best - trained, abs=6e-3 * abs(gap) + 2e-5)
        assert 1e-3 < gap < 0.5
        # After so few steps the guide is not exact: a divergence of zero would be one that is not computed.
        divergences = [figures_of(printed, f"{share}%")[0] for share in (0, 30, 60, 90)]
        assert all(1e-5 < kl < 0.3 for kl in divergences)
        here, standard, raw = (
            figures_of(printed, begin)[0]
            for begin in ("factor analysis, trained here", "PPCA of standardised", "PPCA of the measurements")
        )
        assert here > standard + 0.3 > raw + 0.3


class TestBayesianPca:
    def test_a_short_run_keeps_what_was_planted(self, tmp_path):
        """It is the example's claim, for a number that is not the default."""
        printed = run("bayesian_pca", tmp_path, "--steps", "250", "--planted", "3", "--offered", "8", "--seed", "1")
        assert "planted 3, offered 8, kept 3" in printed
        made, bayesian, chosen, offered = (
            figures_of(printed, begin)[0]
            for begin in ("the distribution that made", "Bayesian PCA, 8", "PPCA, d = 3, the best of 8", "PPCA, d = 8 ")
        )
        assert made > chosen > offered
        assert made > bayesian > offered
        assert bayesian == pytest.approx(chosen, abs=0.1)


class TestMixturePpca:
    def graded(self, part: str) -> None:
        """Several beat one on rows that neither has seen, and the figures don't contradict each other."""
        one, several = (figures_of(part, begin) for begin in ("one PPCA, d", "8 of them"))
        assert several[1] > one[1] + 1
        exact = figures_of(part, "ELBO exact")
        divergence = figures_of(part, "KL(guide")
        for column in (0, 1):
            assert exact[column] == pytest.approx(several[column] - divergence[column], abs=2e-4)

    def test_a_short_run_shows_that_several_beat_one(self, tmp_path):
        """It is the example's claim, on the curved cloud and on digits."""
        printed = run("mixture_ppca", tmp_path, "--steps", "40")
        cloud, digits = printed.split("\ndigits:")
        self.graded(cloud)
        assert "8 of 8 alive" in cloud
        single, several = (figures_of(digits, begin) for begin in ("one PPCA, d = 4", "10 of them"))
        assert several[1] > single[1] + 10
        assert "10 of 10 alive" in digits

    @pytest.mark.slow
    def test_oil_flow_too(self, tmp_path):
        """The same on measured rows of another kind."""
        root = os.environ.get("PYRO_LVM_DATA")
        if root is None or not (Path(root) / "oil_flow").exists():
            pytest.skip("no oil_flow under PYRO_LVM_DATA")
        printed = run("mixture_ppca", tmp_path, "--steps", "40", "--data", str(Path(root) / "oil_flow"))
        oil = printed.partition("\noil flow:")[2]
        assert figures_of(oil, "5 of them")[1] > figures_of(oil, "one PPCA, d = 2")[1] + 5
