"""A new pair works at once, where it is written and as it is written."""

import json
import math
import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyro_lvm.catalogue import run_file
from pyro_lvm.cli import main
from pyro_lvm.errors import PairError
from pyro_lvm.scaffold import new_pair
from pyro_lvm.scaffold.sources import half, with_imports, with_line

ROOT = Path(__file__).parents[2]
LATENTS = ("continuous", "discrete")
NAMES = {"continuous": "own_factors", "discrete": "own_kinds"}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def in_folder(folder: Path, *arguments: object, path: Path | None = None) -> str:
    """What a Python command prints that is run in a folder, with another folder's packages before all others."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of very unlike units, one that never varies, counts, and holes."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "dollars": rng.normal(1e6, 1e3, 200),
            "metres": rng.normal(0, 1e-5, 200),
            "count": rng.poisson(3.0, 200),
            "constant": 7.0,
        }
    )
    frame.loc[rng.random(200) < 0.2, "metres"] = math.nan
    path = tmp_path_factory.mktemp("scaffold") / "table.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("latent", LATENTS)
def test_a_new_file_is_checked_fitted_and_evaluated(
    latent: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Wrong: the first thing that a person sees of a pair of their own would be an error.
    monkeypatch.chdir(tmp_path)
    name = NAMES[latent]
    code, printed, errors = run(capsys, "new", name, "--latent", latent, "--json")
    assert (code, errors) == (0, "")
    made = json.loads(printed)
    assert made["written"] == [f"{name}.py", f"test_{name}.py"] == sorted(path.name for path in tmp_path.iterdir())
    assert made["reference"] == f"{name}.py:model,guide"
    assert made["name"] is None
    for data in (("--data", table), ("--data", table, "--features", "dollars"), ()):
        code, printed, errors = run(capsys, "check", made["reference"], *data, "--json")
        assert code == 0, errors
        assert json.loads(printed) == {"ok": True, "findings": []}
    fitted = []
    for steps in (1, 150):
        arguments = ("--data", table, "--steps", steps, "--out", "run", "--force", "--figures")
        code, _, errors = run(capsys, "fit", made["reference"], *arguments, "--quiet")
        assert code == 0, errors
        fitted.append(json.loads((tmp_path / "run" / "metrics.json").read_text())["elbo"])
    assert fitted[1] > fitted[0] + 0.1
    code, printed, errors = run(capsys, "evaluate", "run", "--pair", made["reference"], "--json")
    assert code == 0, errors
    assert json.loads(printed)["elbo"] == pytest.approx(fitted[1])


def test_the_tests_of_a_new_file_pass_as_they_are(tmp_path: Path) -> None:
    # Wrong: a person's first run of pytest would fail, on a mistake that isn't theirs.
    for latent in LATENTS:
        new_pair(NAMES[latent], latent, tmp_path)  # type: ignore[arg-type]
    assert "58 passed" in in_folder(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    for arguments in (("check",), ("format", "--check", "--line-length", "120")):
        in_folder(tmp_path, "-m", "ruff", *arguments, "--isolated", "--no-cache", ".")


def test_a_planted_mistake_fails_the_written_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: they would pass whatever the pair is.
    made = new_pair("own_mistakes", "continuous", tmp_path)
    source = made.written[0].read_text()
    sound = 'pyro.sample("z", self.encode(x))'
    assert sound in source
    made.written[0].write_text(source.replace(sound, "self.encode(x)"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AssertionError, match="latent-missing-in-guide"):
        run_file(made.written[1]).TestContract().test_sites_match()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout with a new pair of each kind."""
    copy = tmp_path_factory.mktemp("checkout") / "project"
    for name in ("pyro_lvm", "models", "guides", "tests/models", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    for latent in LATENTS:
        new_pair(NAMES[latent], latent, copy / "models")  # type: ignore[arg-type]
    return copy


def test_new_pairs_in_a_checkout_are_installed_with_it(checkout: Path, tmp_path: Path) -> None:
    # Wrong: what `new` wrote into the project would not be a part of it.
    installed = tmp_path / "installed"
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    in_folder(checkout, "-m", "pip", "install", *options, "--target", installed, ".")
    points = [point for found in distributions(path=[str(installed)]) for point in found.entry_points]
    assert {"own-factors", "own-kinds"} < {point.name for point in points}
    in_folder(tmp_path, "-m", "pyro_lvm", "fit", "own-kinds", "--steps", "5", "--out", "run", path=installed)
    tests = [checkout / "tests" / "models" / f"test_{name}.py" for name in NAMES.values()]
    pytest_options = ("-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-k", "Contract")
    assert "56 passed" in in_folder(tmp_path, "-m", "pytest", *pytest_options, *tests, path=installed)


def test_new_pairs_in_a_checkout_read_as_the_others_do(checkout: Path) -> None:
    # Wrong: `make lint` would fail on files that nobody has touched yet.
    files = [checkout / "pyro_lvm" / "zoo.py"]
    files += [checkout / part / f"{name}.py" for part in ("models", "guides") for name in NAMES.values()]
    files += [checkout / "tests" / "models" / f"test_{name}.py" for name in NAMES.values()]
    for arguments in (("check",), ("format", "--check")):
        in_folder(checkout, "-m", "ruff", *arguments, "--no-cache", *files)
    model, guide = ((checkout / part / "own_factors.py").read_text() for part in ("models", "guides"))
    assert "class OwnFactors(PairModule)" in model
    assert "class OwnFactorsGuide(PairModule)" in guide
    assert "observe" not in guide
    assert "pyro_lvm.guides" not in model + guide


def test_a_checkout_is_told_how_to_go_on(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "project"
    shutil.copytree(checkout, copy)
    monkeypatch.chdir(copy / "guides")
    code, printed, errors = run(capsys, "new", "third_pair")
    assert (code, errors) == (0, "")
    # Entry points are fixed when a project is installed.
    assert "after `make install` its name is third-pair" in printed
    reference = "../pyro_lvm/zoo.py:ThirdPair,ThirdPairGuide"
    assert f"pyro-lvm check {reference}\n" in printed
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for name, message in (
        ("third_pair", "third_pair.py' is there already"),
        ("own_factors", "own_factors.py' is there already"),
        ("mixture", "mixture.py' is there already"),
        ("em", "'em' means something else"),
        ("normal", "'Normal' means something else"),
    ):
        code, _, errors = run(capsys, "new", name)
        assert code == 2
        assert message in errors
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Own-Pair",
            "'Own-Pair' is no name for a pair: expected small letters, digits and underscores, such as 'own_pair'",
        ),
        ("9lives", "such as 'lives'"),
        ("../outside", "such as 'outside'"),
        ("größe", "is no name for a pair"),
        ("", "'' is no name for a pair"),
        ("class", "'class' is a word of Python's own"),
        ("factor_analysis", "there is a pair 'factor-analysis' already"),
        ("ppca", "there is a pair 'ppca' already"),
        ("statistics", "'statistics' is a module that Python has already"),
        ("torch", "'torch' is a module that Python has already"),
        ("there", "there.py' is there already"),
        ("tested", "test_tested.py' is there already"),
    ],
)
def test_a_name_that_will_not_do_is_one_line(name: str, message: str, tmp_path: Path) -> None:
    # Wrong: somebody's file would be lost, or `import torch` mean another file from then on.
    (tmp_path / "there.py").write_text("precious")
    (tmp_path / "test_tested.py").write_text("precious")
    with pytest.raises(PairError) as error:
        new_pair(name, folder=tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_tested.py", "there.py"]


def test_an_unknown_latent_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="--latent both: expected one of continuous, discrete"):
        new_pair("own_pair", "both", tmp_path)  # type: ignore[arg-type]


class TestSources:
    def test_half_keeps_the_imports_that_are_used(self) -> None:
        source = (
            '"""Two."""\n\nfrom __future__ import annotations\n\nimport os\nfrom math import cos, sin\n\n'
            "from pyro_lvm import em, fit\n\n\n"
            'class One:\n    """The one."""\n\n    x: em.PPCA = sin(1)\n\n\nclass Other:\n    y = os.sep\n'
        )
        assert half(source, "One", "Sole") == (
            '"""The one."""\n\nfrom __future__ import annotations\n\nfrom math import sin\n\n'
            'from pyro_lvm import em\n\n\nclass Sole:\n    """The one."""\n\n    x: em.PPCA = sin(1)\n'
        )

    def test_imports_are_put_in_order(self) -> None:
        source = "import os\n\nfrom pyro_lvm import (\n    em,\n    fit,\n)\nfrom pyro_lvm.pair import Pair\n\nx = 1\n"
        assert with_imports(source, ["from pyro_lvm.models.a import A"], without="pyro_lvm.pair") == (
            "import os\n\nfrom pyro_lvm import (\n    em,\n    fit,\n)\nfrom pyro_lvm.models.a import A\n\nx = 1\n"
        )

    @pytest.mark.parametrize("end", ["", "\n[b]\nz = 1\n"])
    def test_a_line_ends_its_table(self, end: str) -> None:
        assert with_line(f"[a]\nx = 1\n{end}", "[a]", "y = 2") == f"[a]\nx = 1\ny = 2\n{end}"
