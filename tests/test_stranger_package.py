"""A package that knows pyro_lvm, and that pyro_lvm doesn't know, brings a pair along."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pyro_lvm import Pair, fit, grade
from pyro_lvm.catalogue import run_file
from pyro_lvm.pair import Half
from pyro_lvm.testing import PairContract

PACKAGE = Path(__file__).parents[1] / "examples" / "stranger_package"


def counts(latent_dim: int = 2) -> Tensor:
    """Counts of six features from rare to frequent, one of which is always zero."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(400, latent_dim, generator=generator)
    weights = 0.6 * torch.randn(6, latent_dim, generator=generator)
    rates = (torch.tensor([-1.0, 0.0, 1.0, 3.0, 5.0, -torch.inf]) + z @ weights.T).exp()
    return torch.poisson(rates, generator=generator)


@pytest.fixture(scope="module")
def package() -> ModuleType:
    return run_file(PACKAGE / "src" / "count_pairs" / "__init__.py")


class TestContract(PairContract):
    @pytest.fixture(autouse=True)
    def _package(self, package: ModuleType) -> None:
        self.package = package

    def make_pair(self) -> tuple[Half, Half]:
        pair = Pair(self.package.PoissonFactors(6), self.package.LogLinearGaussian(6))
        pair.start(counts())
        return pair.model, pair.guide

    def make_rows(self) -> Tensor:
        return counts()


class TestContractWithHoles(TestContract):
    def make_rows(self) -> Tensor:
        holes = torch.rand(400, 6, generator=torch.Generator().manual_seed(1)) < 0.2
        return counts().masked_fill(holes, torch.nan)


def test_the_elbo_is_just_below_the_evidence_by_quadrature(package: ModuleType) -> None:
    # Wrong: the example would show how to write a pair that doesn't train to the truth.
    x = counts(1)
    model = package.PoissonFactors(6, 1)
    pair = fit(model, package.LogLinearGaussian(6, 1), x, steps=800, progress=False).pair
    # Over the range that holds all of the prior's weight; finer than the narrowest posterior.
    z = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    with torch.no_grad():
        rates = model.decode(z[:, None].float()).rate.double()
        likelihood = torch.distributions.Poisson(rates).log_prob(x[:, None].double()).sum(-1)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
        evidence = float(torch.trapezoid((likelihood + prior).exp(), z).log().mean())
        independent = float(torch.distributions.Poisson(x.mean(0)).log_prob(x).sum(1).mean())
    assert evidence - 0.15 < grade(pair, x).elbo < evidence + 0.01
    assert evidence > independent + 5


# One process for all commands: each would import everything anew.
COMMANDS = """
import json, sys
from pyro_lvm.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as ended:
        assert not ended.code, arguments
    print("END")
"""


def test_an_installed_package_is_found_checked_and_fitted(tmp_path: Path) -> None:
    # Wrong: nobody could give others a pair without a change to this package.
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # Built in a copy: building leaves files beside the sources.
    copied = tmp_path / "package"
    (copied / "src" / "count_pairs").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "src/count_pairs/__init__.py"):
        (copied / name).write_text((PACKAGE / name).read_text())
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    run("-m", "pip", "install", *options, "--target", "installed", str(copied))
    pd.DataFrame(counts().numpy().astype(np.int64), columns=list("abcdef")).to_csv(tmp_path / "counts.csv", index=False)
    data = ["--data", "counts.csv"]
    commands = [
        ["list", "--json"],
        ["check", "poisson-factors", *data, "--json"],
        ["fit", "poisson-factors", *data, "--latent-dim", "1", "--steps", "200", "--out", "run", "--json"],
        # The run names an installed pair, and so needs no file to be read back.
        ["evaluate", "run", "--json"],
    ]
    printed = run("-c", COMMANDS, json.dumps(commands)).split("END\n")
    listed, checked, fitted, evaluated = (json.loads(part) for part in printed[: len(commands)])
    offered = {pair["name"]: pair for pair in listed["pairs"]}
    assert offered["poisson-factors"]["options"] == ["latent_dim"]
    assert checked == {"ok": True, "findings": []}
    assert evaluated["elbo"] == pytest.approx(fitted["elbo"])
