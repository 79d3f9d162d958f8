"""The variational autoencoder on the command line: its options, what they leave in the run, and bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pyro_lvm.cli import main

FIT = ("fit", "vae", "--steps", 25, "--option", "hidden=[8]", "--seed", 1)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_a_binarized_run_says_so_and_is_graded_again_on_the_same_draw(
    binarize: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Wrong: nats of other zeros and ones, or of grey values, would be taken for those of this run.
    options = ("--binarize", binarize, "--likelihood", "bernoulli", "--validation", 0.1, "--quiet", "--figures")
    out = tmp_path / "run"
    assert run(capsys, *FIT, *options, "--out", out) == (0, "", "")
    fitted = json.loads((out / "metrics.json").read_text())
    assert fitted["binarize"] == binarize
    assert (out / "latent_map.png").exists()
    code, printed, _ = run(capsys, "evaluate", out, "--json")
    assert code == 0
    evaluated = json.loads(printed)
    assert evaluated["elbo"] == pytest.approx(fitted["elbo"], abs=1e-6)
    assert evaluated["held_out"]["elbo"] == pytest.approx(fitted["held_out"]["elbo"], abs=1e-6)
    # Grey rows of a file are made what the run was trained on.
    np.save(tmp_path / "grey.npy", np.random.default_rng(0).random((30, 64)))
    code, _, err = run(capsys, "evaluate", out, "--data", tmp_path / "grey.npy", "--quiet")
    assert (code, err) == (0, "")


def test_objectives_are_chosen_and_remembered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (options, name) in enumerate(
        [
            (("--beta", 4, "--warmup", 10, "--free-bits", 0.1, "--clip-norm", 1), "TemperedELBO"),
            (("--bound", "iwae", "--particles", 3), "ImportanceWeightedELBO"),
        ]
    ):
        out = tmp_path / str(number)
        assert run(capsys, *FIT, *options, "--quiet", "--out", out) == (0, "", "")
        kept = json.loads((out / "config.json").read_text())["training"]["elbo"]
        assert kept["name"] == name
        assert kept.get("beta", 4) == 4


@pytest.mark.filterwarnings("ignore:of .* rows less than 1%")
@pytest.mark.parametrize("guide", ["diagonal", "masked"])
def test_a_run_fills_what_is_missing(guide: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: cells that were there are changed, filled ones are outside the pixels' range, or draws are all the same.
    out = tmp_path / "run"
    assert (
        run(capsys, *FIT, "--guide", guide, "--binarize", "static", "--likelihood", "bernoulli", "--out", out)[0] == 0
    )
    holes = np.random.default_rng(0).integers(0, 2, (12, 64)).astype(float)
    holes[:7, ::5] = np.nan
    holes[0] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    base = ("impute", out, "--data", tmp_path / "holes.npy")
    code, printed, err = run(capsys, *base, "--out", tmp_path / "mean.npy", "--quiet")
    assert (code, printed) == (0, ""), err
    code, printed, _ = run(capsys, *base, "--out", tmp_path / "draws.npy", "--draws", 4, "--json")
    assert code == 0
    assert json.loads(printed)["num_filled"] == np.isnan(holes).sum()
    mean, draws = np.load(tmp_path / "mean.npy"), np.load(tmp_path / "draws.npy")
    there = ~np.isnan(holes)
    assert (mean[there] == holes[there]).all()
    assert (draws[:, there] == holes[there]).all()
    assert ((mean[~there] > 0) & (mean[~there] < 1)).all()
    assert set(np.unique(draws)) == {0, 1}
    assert (draws[0] != draws[1]).any()


def test_convolutions_take_the_images_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *FIT, "--option", "channels=[4,8]", "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--likelihood", "bernoulli"), "grey values such as .* continuous-bernoulli or gaussian"),
        (("--likelihood", "laplace"), "likelihood='laplace': expected one of gaussian"),
        (("--likelihood", "gaussian-fixed"), "needs noise_scale"),
        (("--option", "channels=[4,4,4,4]"), "4 convolutions can't halve images of 8 x 8"),
        (("--option", "activation=gelu"), "activation='gelu'"),
        (("--latent-dim", 0), "latent_dim=0 with 64 features"),
        (("--latent-dim", 65), "latent_dim=65 with 64 features"),
        (("--binarize", "often"), "--binarize often: expected one of none, static, dynamic"),
        (("--binarize", "static", "--scale", "standard"), "zeros and ones need no scaling"),
        (("--bound", "iwae"), "with one particle is the ELBO: add --particles"),
        (("--bound", "iwae", "--beta", 2), "no KL terms to weight"),
        (("--bound", "renyi"), "--bound renyi: expected elbo or iwae"),
        (("--free-bits", -1), "free_bits=-1.0: expected a number from 0 up"),
        (("--lr", 1e30), "the loss became|are no longer finite"),
        (("--method", "em"), "em"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *FIT, *arguments, "--quiet")
    assert code == 2
    assert out == ""
    lines = [line for line in err.strip().splitlines() if "warning" not in line]
    assert len(lines) == 1, err
    assert re.search(message, lines[0]), err


def test_damaged_images_and_labels_of_another_length_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Wrong: a traceback of a decompressor, or labels that belong to other rows.
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8bdamaged")
    np.savez(tmp_path / "short.npz", x=np.zeros((9, 4)), y=np.arange(8))
    for data in (("mnist", "--data-root", tmp_path), (tmp_path / "short.npz",)):
        code, out, err = run(capsys, "fit", "vae", "--steps", 1, "--quiet", "--data", *data)
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1
        assert re.search(r"damaged|gzip|can't be read|one for each of 9 rows", err), err


def test_a_warm_up_that_outlasts_training_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: the KL terms would never get their weight, and nobody would know.
    code, _, err = run(capsys, *FIT, "--warmup", 100, "--quiet")
    assert code == 0
    assert "the warm-up of 100 steps outlasts training" in err


def test_a_tempered_run_needs_a_budget(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "fit", "vae", "--beta", 2, "--quiet")
    assert code == 2
    assert "give steps or epochs" in err


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    first = ("fit", "vae", "--steps", 5, "--quiet", "--out", out)
    # What a training that was killed leaves behind: its checkpoint, and no run.
    from pyro_lvm import data, fit
    from pyro_lvm.catalogue import build

    pair = build("vae", {"data_dim": 64, "image_shape": [8, 8]}, options={"hidden": [8]}, seed=0)
    fit(
        pair.model,
        pair.guide,
        data.load("digits"),
        steps=5,
        pair=pair,
        checkpoint=f"{out}.checkpoint",
        checkpoint_every=1e-9,
        progress=False,
    )
    code, _, err = run(capsys, *first, "--option", "hidden=[9]", "--resume")
    assert code == 2
    assert "is of another training (its pair differ)" in err
