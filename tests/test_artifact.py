import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from pyro_lvm import artifact
from pyro_lvm.catalogue import build
from pyro_lvm.errors import ArtifactError
from pyro_lvm.fitting import fit

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pair = build("ppca", {"data_dim": 5})
    result = fit(pair.model, pair.guide, X, pair=pair, steps=20, progress=False)
    out = tmp_path_factory.mktemp("runs") / "run"
    return artifact.save(out, pair, config={"data": {}}, history=result.history, metrics={"gap": 0.1 + 0.2})


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def test_what_is_saved_comes_back_to_the_last_bit(saved: Path) -> None:
    # Wrong: a run would be graded differently after it was read back.
    loaded = artifact.load(saved)
    again = artifact.save(
        saved.parent / "again", loaded.pair, config={"data": {}}, history=loaded.history, metrics=loaded.metrics
    )
    for name in (artifact.WEIGHTS, artifact.HISTORY, artifact.METRICS):
        assert (again / name).read_bytes() == (saved / name).read_bytes()
    assert loaded.metrics["gap"] == 0.1 + 0.2
    assert sorted(path.name for path in saved.iterdir()) == [
        artifact.CONFIG,
        artifact.HISTORY,
        artifact.METRICS,
        artifact.WEIGHTS,
    ]


def test_nothing_that_is_loaded_executes(run: Path) -> None:
    # Wrong: opening somebody's run would run their code.
    flag = run.parent / "executed"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(flag),)

    (run / artifact.WEIGHTS).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ArtifactError, match="nothing of it was executed"):
        artifact.load(run)
    torch.save({"x": Trap()}, run / artifact.WEIGHTS)
    with pytest.raises(ArtifactError, match="nothing of it was executed"):
        artifact.load(run)
    assert not flag.exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "config.json").unlink(), "holds no run"),
        (lambda r: (r / "config.json").write_text("{"), "config.json' is damaged"),
        (lambda r: (r / "config.json").write_text('{"model": 1}'), "was not written by pyro_lvm"),
        (lambda r: (r / "config.json").write_text("[1]"), "was not written by pyro_lvm"),
        (lambda r: edit(r, format_version=99), "of format 99, newer than"),
        (lambda r: edit(r, pair={"pair": "ppca"}), "no configuration of a pair"),
        (lambda r: (r / "model.safetensors").unlink(), "missing, damaged"),
        (lambda r: os.truncate(r / "model.safetensors", 100), "missing, damaged"),
        (lambda r: (r / "metrics.json").write_text("nan nan"), "metrics can't be read"),
        (lambda r: (r / "history.csv").unlink(), "metrics can't be read"),
    ],
)
def test_damaged_foreign_and_newer_runs_are_refused(run: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(run)
    with pytest.raises(ValueError, match=message) as error:
        artifact.load(run)
    assert "\n" not in str(error.value)


def edit(run: Path, **changes: object) -> None:
    path = run / artifact.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_of_another_pair_are_refused(run: Path) -> None:
    arguments = {"model": {"data_dim": 7}, "guide": {"data_dim": 7}}
    edit(run, pair={"pair": "ppca", "guide": "full", "arguments": arguments})
    with pytest.raises(ArtifactError, match="don't fit this pair"):
        artifact.load(run)


def test_existing_runs_are_replaced_only_by_force_and_other_folders_never(run: Path) -> None:
    loaded = artifact.load(run)
    parts = {"config": {}, "history": loaded.history, "metrics": {"gap": 1.0}}
    with pytest.raises(ArtifactError, match="already holds a run"):
        artifact.save(run, loaded.pair, **parts)  # type: ignore[arg-type]
    artifact.save(run, loaded.pair, force=True, **parts)  # type: ignore[arg-type]
    assert json.loads((run / "metrics.json").read_text()) == {"gap": 1.0}
    foreign = run.parent / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("years of work")
    # A file of that name doesn't make it a run.
    (foreign / "config.json").write_text('{"name": "thesis"}')
    for force in (False, True):
        with pytest.raises(ArtifactError, match="holds no run, so it won't be replaced"):
            artifact.save(foreign, loaded.pair, force=force, **parts)  # type: ignore[arg-type]
    assert (foreign / "chapter.tex").read_text() == "years of work"
    assert [p.name for p in run.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("at", ["save_file", "history", "swap"])
def test_failing_save_leaves_the_old_run(run: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: a full disk would cost the run that was there before.
    loaded = artifact.load(run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    if at == "save_file":
        monkeypatch.setattr(artifact, "save_file", full)
    elif at == "history":
        monkeypatch.setattr(type(loaded.history), "save", full)
    else:
        renames = iter([os.rename, full, os.rename])
        monkeypatch.setattr(artifact.os, "rename", lambda a, b: next(renames)(a, b))
    with pytest.raises(ArtifactError, match="No space left on device"):
        artifact.save(run, loaded.pair, config={}, history=loaded.history, metrics={}, force=True)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert [p.name for p in run.parent.iterdir()] == [run.name]


def test_folder_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ArtifactError, match="can't write to"):
        artifact.check_out(blocked / "run")
    with pytest.raises(ArtifactError, match="is a file"):
        artifact.check_out(blocked)
