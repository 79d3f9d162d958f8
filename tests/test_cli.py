import json
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_lvm.cli import main

KEYS = {
    "log_evidence",
    "log_evidence_ml",
    "gap",
    "kl_to_exact",
    "elbo",
    "principal_angle_deg",
    "noise_variance",
    "noise_variance_ml",
    "steps",
    "seconds",
    "device",
}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    with pytest.raises(SystemExit) as ended:
        main(
            ["fit", "ppca", "--latent-dim", "3", "--steps", "300", "--validation", "0.1", "--out", str(out), "--quiet"]
        )
    assert ended.value.code == 0
    return out


def test_evaluate_gives_the_figures_of_fit(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: what was printed after training could not be had again.
    code, out, err = run(capsys, "evaluate", saved, "--json")
    assert (code, err) == (0, "")
    evaluated, fitted = json.loads(out), json.loads((saved / "metrics.json").read_text())
    assert evaluated.keys() == fitted.keys()
    assert evaluated.keys() >= KEYS
    for key in KEYS - {"device"}:
        assert evaluated[key] == pytest.approx(fitted[key], abs=1e-6)
        if key not in ("steps", "seconds"):
            assert evaluated["held_out"][key] == pytest.approx(fitted["held_out"][key], abs=1e-6)
    assert fitted["num_rows"] + fitted["held_out"]["num_rows"] == 1797


def test_fit_prints_json_alone_or_a_table_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("fit", "ppca", "--latent-dim", 2, "--steps", 30)
    code, out, err = run(capsys, *base, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out).keys() >= KEYS
    code, out, err = run(capsys, *base, "--quiet")
    assert (code, out, err) == (0, "", "")
    code, out, _ = run(capsys, *base, "--out", tmp_path / "run", "--figures")
    assert code == 0
    assert "KL(guide || exact posterior)" in out
    assert "saved in" in out
    assert {p.name for p in (tmp_path / "run").glob("*.png")} == {
        "elbo.png",
        "latent_map.png",
        "loadings.png",
        "reconstructions.png",
    }


def test_evaluate_on_other_rows(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    np.save(tmp_path / "rows.npy", np.random.default_rng(0).uniform(0, 1, (20, 64)))
    code, out, _ = run(capsys, "evaluate", saved, "--data", tmp_path / "rows.npy", "--json")
    assert code == 0
    figures = json.loads(out)
    assert figures["held_out"]["num_rows"] == 20
    assert figures["held_out"]["log_evidence"] < figures["log_evidence"] - 10
    np.save(tmp_path / "narrow.npy", np.zeros((20, 3)))
    code, _, err = run(capsys, "evaluate", saved, "--data", tmp_path / "narrow.npy")
    assert code == 2
    assert "has 3 features" in err


def test_list_names_every_pair(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list", "--json")
    assert code == 0
    listed = {p["name"]: p for p in json.loads(out)["pairs"]}
    assert listed["ppca"]["guides"] == ["full", "diagonal", "experts"]
    assert listed["ppca"]["options"] == ["latent_dim"]
    assert "ppca" in run(capsys, "list")[1]


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "fit", "evaluate"):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        assert f"pyro-lvm {command}" in out


def test_pair_of_a_file_is_fitted_and_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my_pair.py"
    path.write_text(
        "import pyro, torch\nfrom pyro.distributions import Normal\nfrom pyro_lvm import data_plate, observe\n"
        "def model(x):\n    loc = pyro.param('loc', torch.zeros(x.shape[1]))\n    with data_plate(x):\n"
        "        z = pyro.sample('z', Normal(0., 1.))\n        observe('x', Normal(loc + z[:, None], 1.), x)\n"
        "def guide(x):\n    slope = pyro.param('slope', torch.zeros(()))\n    with data_plate(x):\n"
        "        pyro.sample('z', Normal(slope * x.mean(-1), 1.))\n"
    )
    reference, out = f"{path}:model,guide", tmp_path / "run"
    assert run(capsys, "fit", reference, "--steps", 10, "--out", out, "--quiet")[0] == 0
    code, _, err = run(capsys, "evaluate", out)
    assert code == 2
    assert "--pair" in err
    code, printed, _ = run(capsys, "evaluate", out, "--pair", reference, "--json")
    assert code == 0
    assert json.loads(printed)["elbo"] == pytest.approx(
        json.loads((out / "metrics.json").read_text())["elbo"], abs=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "pcpa"), "unknown pair 'pcpa'"),
        (("fit", "ppca", "--data", "nowhere.csv"), "nowhere.csv"),
        (("fit", "ppca", "--data", "digist"), "digits"),
        (("fit", "ppca", "--latent-dim", "64"), "latent_dim=64 with 64 features"),
        (("fit", "ppca", "--latent-dim", "0"), "latent_dim=0"),
        (("fit", "ppca", "--latent-dim", "two"), "--latent-dim"),
        (("fit", "ppca", "--guide", "banded"), "no guide 'banded'"),
        (("fit", "ppca", "--option", "latent_dim"), "expected NAME=VALUE"),
        (("fit", "ppca", "--option", "depth=3"), "no option 'depth'"),
        (("fit", "ppca", "--steps", "5", "--epochs", "5"), "one budget"),
        (("fit", "ppca", "--steps", "-5"), "steps=-5"),
        (("fit", "ppca", "--train", "decoder"), "train='decoder'"),
        (("fit", "ppca", "--validation", "2"), "validation=2.0"),
        (("fit", "ppca", "--device", "abacus"), "abacus"),
        (("fit", "ppca", "--figures"), "--out"),
        (("fit", "ppca", "--seed", "-1"), "seed=-1"),
        (("fit", "ppca", "--option", "latent_dim=2.5"), "latent_dim=2.5"),
        (("fit", "ppca", "--option", "data_dim=10"), "no option 'data_dim'"),
        (("fit", "ppca", "--out", "x" * 300), "can't be a folder"),
        (("fit", "ppca", "--colour", "red"), "--colour"),
        (("fit",), "pair"),
        (("evaluate", "nowhere"), "holds no run"),
        (("walk",), "walk"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("pyro-lvm: ")
    assert err.count("\n") == 1


def test_existing_run_is_refused_before_the_work(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (saved / "metrics.json").read_bytes()
    code, _, err = run(capsys, "fit", "ppca", "--steps", 1_000_000, "--out", saved)
    assert code == 2
    assert "--force" in err
    assert (saved / "metrics.json").read_bytes() == before


def test_changed_data_is_noticed(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    rows = tmp_path / "rows.npy"
    np.save(rows, np.random.default_rng(0).normal(size=(30, 4)))
    assert run(capsys, "fit", "ppca", "--data", rows, "--steps", 5, "--out", tmp_path / "run", "--quiet")[0] == 0
    np.save(rows, np.random.default_rng(1).normal(size=(30, 4)))
    code, _, err = run(capsys, "evaluate", tmp_path / "run")
    assert code == 2
    assert "is not what" in err


def test_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "pyro_lvm", "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "ppca" in done.stdout


def test_help_and_a_mistyped_option_load_nothing_heavy() -> None:
    """Wrong: a person who mistypes an option waits seconds for torch to say so."""
    ask = (
        "import sys\nfrom pyro_lvm.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        "    print(*{'torch', 'pyro', 'numpy', 'pandas', 'matplotlib', 'sklearn'} & set(sys.modules), file=sys.stderr)"
    )
    for arguments, code in ((["--help"], 0), (["judge", "--help"], 0), (["fit", "ppca", "--stepps", "3"], 2)):
        done = subprocess.run([sys.executable, "-c", ask, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert done.stderr.splitlines()[-1] == ""
