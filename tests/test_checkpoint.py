import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pyro_lvm import checkpoint, fit
from pyro_lvm.data import stream
from pyro_lvm.errors import ArtifactError, TrainingError
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA
from pyro_lvm.training import TrainingState

X = torch.randn(150, 5, generator=torch.Generator().manual_seed(0))

# A training that is slow enough to be killed anywhere, its checkpoint after every step; the second argument resumes.
SCRIPT = """
import sys, torch
from safetensors.torch import save_file
from pyro_lvm import fit
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA
torch.set_num_threads(1)
folder, resume, budget = sys.argv[1], sys.argv[2] == "resume", sys.argv[3]
x = torch.randn(150, 5, generator=torch.Generator().manual_seed(0))
options = {"steps": 240} if budget == "budget" else {"max_steps": 2300}
if budget == "validation":
    options = {"steps": 240, "validation": 0.2, "patience": 20}
result = fit(PPCA(5, 2), LinearGaussian(5, 2), x, batch_size=40, seed=3, progress=False,
             checkpoint=folder + "/c", checkpoint_every=0, resume=resume, **options)
result.history.save(__import__("pathlib").Path(folder + "/history.csv"))
save_file({k: v.contiguous() for k, v in result.pair.state_dict().items()}, folder + "/weights")
"""


def killed_and_resumed(folder: Path, kind: str, seconds: list[float]) -> None:
    """Run the script, kill it after each of some times, and let it finish."""
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    for delay in seconds:
        resume = "resume" if (folder / "c").exists() else "start"
        process = subprocess.Popen([*command, resume, kind])
        # The delay counts from the first step, so that it falls into the training and not into the imports.
        began = time.monotonic()
        before = (folder / "c").stat().st_mtime_ns if (folder / "c").exists() else 0
        while process.poll() is None and time.monotonic() - began < 60:
            if (folder / "c").exists() and (folder / "c").stat().st_mtime_ns != before:
                time.sleep(delay)
                break
            time.sleep(0.01)
        process.kill()
        process.wait()
    resume = "resume" if (folder / "c").exists() else "start"
    subprocess.run([*command, resume, kind], check=True)


def same(left: Path, right: Path) -> None:
    assert (left / "history.csv").read_bytes() == (right / "history.csv").read_bytes()
    ours, theirs = load_file(left / "weights"), load_file(right / "weights")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("kind", ["budget", "validation"])
def test_killed_at_random_moments_and_resumed_is_the_same_bit_for_bit(tmp_path: Path, kind: str) -> None:
    # Wrong: a machine that fails halfway would change the result, or lose the run.
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir()
    pieces.mkdir()
    subprocess.run([sys.executable, "-c", SCRIPT, str(whole), "start", kind], check=True)
    delays = np.random.default_rng(0).uniform(0, 0.3, 2).tolist()
    killed_and_resumed(pieces, kind, delays)
    same(whole, pieces)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["budget", "validation", "rounds"])
def test_killed_at_twenty_random_moments(tmp_path: Path, kind: str) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir()
    pieces.mkdir()
    subprocess.run([sys.executable, "-c", SCRIPT, str(whole), "start", kind], check=True)
    longest = 0.4 if kind == "rounds" else 0.05
    killed_and_resumed(pieces, kind, np.random.default_rng(1).uniform(0, longest, 20).tolist())
    same(whole, pieces)


class _StopError(Exception):
    pass


def stop_at(step: int) -> object:
    def callback(state: TrainingState) -> None:
        if state.step >= step:
            raise _StopError

    return callback


def test_rounds_resume_within_and_between(tmp_path: Path) -> None:
    # Wrong: the second round would be compared with nothing, or begin with the first one's length.
    options = {"max_steps": 2600, "batch_size": 50, "progress": False}
    whole = fit(PPCA(5, 2), LinearGaussian(5, 2), X, **options)  # type: ignore[arg-type]
    for step in (700, 2300):
        path = tmp_path / f"c{step}"
        with pytest.raises(_StopError):
            fit(
                PPCA(5, 2),
                LinearGaussian(5, 2),
                X,
                checkpoint=path,
                checkpoint_every=0.05,
                callbacks=[stop_at(step)],
                **options,
            )  # type: ignore[arg-type,list-item]
        resumed = fit(
            PPCA(5, 2), LinearGaussian(5, 2), X, checkpoint=path, checkpoint_every=1e9, resume=True, **options
        )  # type: ignore[arg-type]
        assert resumed.history == whole.history
        for name, value in whole.pair.state_dict().items():
            assert torch.equal(value, resumed.pair.state_dict()[name]), name


def test_streams_resume(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.numpy())

    def train(**options: object) -> object:
        rows = stream(tmp_path / "x.npy", 20, seed=1)
        return fit(PPCA(5, 2), LinearGaussian(5, 2), rows, steps=50, progress=False, **options)  # type: ignore[arg-type]

    whole = train()
    path = tmp_path / "c"
    with pytest.raises(_StopError):
        train(checkpoint=path, checkpoint_every=0, callbacks=[stop_at(23)])
    resumed = train(checkpoint=path, resume=True)
    assert resumed.history == whole.history  # type: ignore[attr-defined]


def test_another_training_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "c"
    fit(PPCA(5, 2), LinearGaussian(5, 2), X, steps=3, checkpoint=path, checkpoint_every=0, progress=False)
    for options, differing in (
        ({"steps": 4}, "steps"),
        ({"steps": 3, "seed": 9}, "seed"),
        ({"steps": 3, "lr": 0.5}, "lr"),
    ):
        with pytest.raises(TrainingError, match=rf"is of another training \(its {differing} differ"):
            fit(PPCA(5, 2), LinearGaussian(5, 2), X, checkpoint=path, resume=True, progress=False, **options)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="sample differ"):
        fit(PPCA(5, 2), LinearGaussian(5, 2), X + 1, steps=3, checkpoint=path, resume=True, progress=False)


def test_missing_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no checkpoint"):
        checkpoint.read(tmp_path / "none")
    (tmp_path / "damaged").write_bytes(b"not safetensors at all")
    with pytest.raises(ArtifactError, match="is damaged"):
        checkpoint.read(tmp_path / "damaged")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(ArtifactError, match="is no checkpoint of this version"):
        checkpoint.read(tmp_path / "foreign")
    with pytest.raises(TrainingError, match="resume needs the checkpoint"):
        fit(PPCA(5, 2), LinearGaussian(5, 2), X, steps=3, resume=True, progress=False)


def test_failing_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: a full disk would cost the last hour and the one before.
    path = tmp_path / "c"
    checkpoint.write(path, {"a": torch.ones(2)}, {"b": 1})

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ArtifactError, match="No space left"):
        checkpoint.write(path, {"a": torch.zeros(2)}, {"b": 2})
    tensors, scalars = checkpoint.read(path)
    assert torch.equal(tensors["a"], torch.ones(2))
    assert scalars == {"b": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_random_state_comes_back() -> None:
    tensors, scalars = checkpoint.random_state()
    first = (torch.rand(3).tolist(), np.random.rand(2).tolist(), random.random())  # noqa: NPY002
    checkpoint.set_random_state(tensors, scalars)
    assert first == (torch.rand(3).tolist(), np.random.rand(2).tolist(), random.random())  # noqa: NPY002
