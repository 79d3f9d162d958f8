"""What people bring from outside, through the command line: tables, holes, damaged runs, pairs with mistakes."""

import json
import math
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_lvm.cli import main

ROWS = np.random.default_rng(0).normal(size=(40, 2)) @ np.random.default_rng(1).normal(
    size=(2, 5)
) + 0.2 * np.random.default_rng(2).normal(size=(40, 5))
NAMES = ["length", "width", "height", "weight", "age"]


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


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    frame = pd.DataFrame(ROWS, columns=NAMES)
    frame["kind"] = ["oak", "elm"] * 20
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(SystemExit):
        main(["fit", "ppca", "--latent-dim", "2", "--steps", "20", "--out", str(out), "--quiet"])
    return out


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def test_table_with_labels_is_fitted_scaled_and_evaluated(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: nats of scaled rows would be reported as nats of the person's own units.
    out = table.parent / "run"
    base = ("fit", "ppca", "--data", table, "--label", "kind", "--steps", 400, "--seed", 1)
    code, printed, err = run(
        capsys, *base, "--scale", "standard", "--validation", 0.2, "--out", out, "--figures", "--json"
    )
    assert code == 0, err
    fitted = json.loads(printed)
    # Below the best that is possible, which figures and history would not be if they were in other units.
    history = pd.read_csv(out / "history.csv")
    assert history["elbo"].iloc[-5:].mean() == pytest.approx(fitted["elbo"], abs=1.0)
    blocked = table.parent / "table.csv" / "run"
    assert "can't write" in refused(capsys, *base, "--out", blocked)
    code, printed, _ = run(capsys, "evaluate", out, "--json")
    assert code == 0
    assert json.loads(printed)["held_out"]["log_evidence"] == pytest.approx(
        fitted["held_out"]["log_evidence"], abs=1e-6
    )
    # The same rows in centimetres instead of metres: five features, so 5 log 100 nats less.
    frame = pd.read_csv(table)
    frame[NAMES] *= 100
    frame.to_csv(table, index=False)
    code, printed, _ = run(capsys, *base, "--scale", "standard", "--validation", 0.2, "--json")
    centimetres = json.loads(printed)
    assert centimetres["log_evidence"] == pytest.approx(fitted["log_evidence"] - 5 * math.log(100), abs=1e-3)
    assert centimetres["kl_to_exact"] == pytest.approx(fitted["kl_to_exact"], abs=1e-3)


def test_features_and_drop_choose_columns(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for choice in (("--features", "length,width,age"), ("--drop", "kind,height,weight")):
        code, printed, err = run(
            capsys, "fit", "ppca", "--data", table, *choice, "--latent-dim", 2, "--steps", 3, "--json"
        )
        assert code == 0, err
        assert json.loads(printed)["num_rows"] == 40
    assert "latent_dim=3 with 3 features" in refused(
        capsys, "fit", "ppca", "--data", table, "--features", "length,width,age", "--latent-dim", 3
    )


def test_column_of_text_is_named_with_what_to_do(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "fit", "ppca", "--data", table)
    for word in ("kind", "--drop", "--label", "--features"):
        assert word in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a,b,c\n", "row"),
        ("a,b,c\n1,2,3\n", "2 rows"),
        ("a,b,c\n1,2,inf\n3,4,5\n", "'c'"),
        ("a,b,c\n1,2,\n3,4,\n", "'c'"),
        ("a,b,c\n1,2,3\n4,5,6,7\n", "ragged|fields|columns|cells"),
        ("a,a,c\n1,2,3\n4,5,6\n", "'a'"),
        ("a,b,c\n1e300,2,3\n4,5,6\n", "'a'"),
        ("a\n1\n2\n", "latent_dim=2 with 1 features"),
    ],
    ids=["empty", "header only", "one row", "infinity", "empty column", "ragged", "twice", "too large", "one column"],
)
def test_tables_that_cannot_be_used_are_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert re.search(message, refused(capsys, "fit", "ppca", "--data", path))


def test_constant_columns_and_empty_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    constant = np.column_stack([ROWS, np.full(40, 3.0)])
    np.save(tmp_path / "constant.npy", constant)
    assert run(capsys, "fit", "ppca", "--data", tmp_path / "constant.npy", "--steps", 5, "--quiet")[0] == 0
    # A linear guide can't take holes: said before any work.
    empty = ROWS.copy()
    empty[3] = np.nan
    np.save(tmp_path / "empty.npy", empty)
    assert "missing entries, which the guide LinearGaussian cannot take" in refused(
        capsys, "fit", "ppca", "--guide", "full", "--data", tmp_path / "empty.npy"
    )


HOLES = """
import pyro, torch
from pyro.distributions import Normal
from torch.distributions import constraints
from pyro_lvm import data_plate, observe

def model(x):
    loc = pyro.param("loc", torch.zeros(x.shape[1]))
    scale = pyro.param("scale", torch.ones(x.shape[1]), constraint=constraints.positive)
    with data_plate(x):
        z = pyro.sample("z", Normal(0.0, 1.0))
        observe("x", Normal(loc + z[:, None], scale), x)

def guide(x):
    slope = pyro.param("slope", torch.zeros(x.shape[1]))
    width = pyro.param("width", torch.ones(()), constraint=constraints.positive)
    with data_plate(x):
        pyro.sample("z", Normal(torch.nan_to_num(x) @ slope, width))
"""


def test_rows_with_nothing_observed_are_taken_by_a_pair_that_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "holes.py").write_text(HOLES)
    empty = ROWS.copy()
    empty[3] = np.nan
    empty[7, 1] = np.nan
    np.save(tmp_path / "empty.npy", empty)
    code, printed, err = run(
        capsys, "fit", f"{tmp_path}/holes.py:model,guide", "--data", tmp_path / "empty.npy", "--steps", 50, "--json"
    )
    assert code == 0, err
    assert math.isfinite(json.loads(printed)["elbo"])


def test_broken_pair_is_refused_before_training_and_named_by_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Wrong: a guide that forgets a latent would train for hours, its posterior silently the prior.
    path = tmp_path / "broken.py"
    path.write_text(HOLES.replace('pyro.sample("z", Normal(torch', 'pyro.sample("zz", Normal(torch'))
    np.save(tmp_path / "rows.npy", ROWS)
    for command in (("fit", "--out", tmp_path / "run"), ("check",)):
        code, out, err = run(capsys, command[0], f"{path}:model,guide", "--data", tmp_path / "rows.npy", *command[1:])
        assert code == 2
        assert "'z'" in out + err or "z" in out
        assert "guide" in out + err
    assert not (tmp_path / "run").exists()
    sound = tmp_path / "sound.py"
    sound.write_text(HOLES)
    code, out, _ = run(capsys, "check", f"{sound}:model,guide", "--data", tmp_path / "rows.npy", "--json")
    assert code == 0
    assert json.loads(out)["ok"]


def test_check_takes_runs_and_names(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for reference in (saved, "ppca"):
        code, out, err = run(capsys, "check", reference, "--json")
        assert code == 0, err
        assert json.loads(out) == {"ok": True, "findings": []}


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: os.truncate(r / "model.safetensors", 64), "damaged"),
        (lambda r: (r / "model.safetensors").write_bytes(pickle.dumps(_Trap())), "nothing of it was executed"),
        (lambda r: torch.save({"a": _Trap()}, r / "model.safetensors"), "nothing of it was executed"),
        (lambda r: (r / "config.json").write_text("{}"), "was not written by pyro_lvm"),
        (lambda r: (r / "config.json").write_bytes(b"\xff\x00"), "damaged"),
        (
            lambda r: (r / "config.json").write_text(
                (r / "config.json").read_text().replace('"format_version": 1', '"format_version": 7')
            ),
            "newer than",
        ),
    ],
    ids=["truncated", "pickle", "torch pickle", "foreign", "binary", "newer"],
)
def test_damaged_runs_are_refused(
    damaged: Path, damage, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(damaged.parent)
    damage(damaged)
    for command in ("evaluate", "check"):
        assert message in refused(capsys, command, damaged)
    assert not (damaged.parent / "sprung").exists()


def test_full_disk_while_saving_keeps_the_old_run(
    damaged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyro_lvm import artifact

    before = {path.name: path.read_bytes() for path in damaged.iterdir()}

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "save_file", full)
    message = refused(capsys, "fit", "ppca", "--steps", 3, "--out", damaged, "--force", "--quiet")
    assert "No space left on device" in message
    assert {path.name: path.read_bytes() for path in damaged.iterdir()} == before


def test_loss_that_turns_nan_is_said_and_the_old_run_kept(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nan.py").write_text(
        HOLES.replace("def model(x):", "runs = [0]\ndef model(x):\n    runs[0] += 1").replace(
            'observe("x", Normal(loc', "observe(\"x\", Normal(loc * (float('nan') if runs[0] > 60 else 1.0)"
        )
    )
    np.save(tmp_path / "rows.npy", ROWS)
    before = {path.name: path.read_bytes() for path in damaged.iterdir()}
    base = ("fit", f"{tmp_path}/nan.py:model,guide", "--data", tmp_path / "rows.npy", "--steps", 300)
    message = refused(capsys, *base, "--out", damaged, "--force", "--quiet")
    assert "the loss became nan at step" in message
    assert {path.name: path.read_bytes() for path in damaged.iterdir()} == before


def test_interrupted_fit_resumes_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys
    import time

    base = ["fit", "ppca", "--latent-dim", "2", "--steps", "1500", "--checkpoint-every", "0.1", "--quiet"]
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert run(capsys, *base, "--out", whole)[0] == 0
    process = subprocess.Popen([sys.executable, "-m", "pyro_lvm", *base, "--out", str(pieces)])
    stored = tmp_path / "pieces.checkpoint"
    for _ in range(1200):
        if stored.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert stored.exists()
    # Wrong: forgetting an option would throw the checkpoint away.
    resumable = refused(capsys, *base, "--out", pieces)
    assert run(capsys, *base, "--out", pieces, "--resume")[0] == 0
    assert not stored.exists()
    assert "add --resume" in resumable
    for name in ("model.safetensors", "history.csv"):
        assert (whole / name).read_bytes() == (pieces / name).read_bytes()
    assert "no checkpoint" in refused(capsys, *base, "--out", tmp_path / "never", "--resume")
    assert "need --out" in refused(capsys, "fit", "ppca", "--resume")


def test_streamed_file_gives_a_run_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).normal(size=(3000, 2)) @ np.random.default_rng(1).normal(size=(2, 5))
    np.save(tmp_path / "big.npy", (rows + 0.3 * np.random.default_rng(2).normal(size=rows.shape)).astype(np.float32))
    base = ("fit", "ppca", "--data", tmp_path / "big.npy", "--steps", 2000)
    code, out, err = run(capsys, *base, "--stream", "--out", tmp_path / "run", "--json")
    assert code == 0, err
    streamed = json.loads(out)
    assert streamed["gap"] < 5e-3
    code, out, _ = run(capsys, "evaluate", tmp_path / "run", "--json")
    assert json.loads(out)["log_evidence"] == pytest.approx(streamed["log_evidence"], abs=1e-6)


def test_streamed_table_leaves_out_the_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: the model would be trained on the very label that it is to be looked at by.
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 5)), columns=NAMES)
    frame.to_parquet(tmp_path / "rows.parquet")
    base = ("fit", "ppca", "--data", tmp_path / "rows.parquet", "--stream", "--steps", 3)
    code, _, err = run(capsys, *base, "--label", "age", "--drop", "weight", "--out", tmp_path / "run", "--quiet")
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["features"] == ["length", "width", "height"]


def test_evaluate_picks_its_columns_and_refuses_holes(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Wrong: columns in another order would be graded as if they were in the old one, or others had to be named again.
    out = tmp_path / "run"
    assert run(capsys, "fit", "ppca", "--data", table, "--label", "kind", "--steps", 3, "--out", out, "--quiet")[0] == 0
    frame = pd.read_csv(table).drop(columns="kind")
    frame.assign(note="text")[["note", *NAMES[::-1]]].to_csv(tmp_path / "turned.csv", index=False)
    for given in (tmp_path / "turned.csv", table):
        code, printed, err = run(capsys, "evaluate", out, "--data", given, "--json")
        assert code == 0, err
        figures = json.loads(printed)
        assert figures["held_out"]["log_evidence"] == pytest.approx(figures["log_evidence"], abs=1e-5)
    assert run(capsys, "check", out, "--data", tmp_path / "turned.csv", "--quiet")[0] == 0
    frame[NAMES[1:]].assign(note="text").to_csv(tmp_path / "lacking.csv", index=False)
    assert f"no column '{NAMES[0]}'" in refused(capsys, "evaluate", out, "--data", tmp_path / "lacking.csv")
    frame[NAMES[1:]].assign(other=1.0).to_csv(tmp_path / "other.csv", index=False)
    assert "choose and order them" in refused(capsys, "evaluate", out, "--data", tmp_path / "other.csv")
    frame.iloc[0, 0] = np.nan
    frame.to_csv(tmp_path / "holes.csv", index=False)
    assert "missing entries" in refused(capsys, "evaluate", out, "--data", tmp_path / "holes.csv")


@pytest.mark.slow
def test_mnist_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    root = os.environ.get("PYRO_LVM_DATA")
    if root is None:
        pytest.skip("PYRO_LVM_DATA names no folder with mnist/")
    code, out, err = run(
        capsys, "fit", "ppca", "--data", "mnist", "--data-root", f"{root}/mnist", "--latent-dim", 10, "--json"
    )
    assert code == 0, err
    assert json.loads(out)["gap"] <= 2e-3
