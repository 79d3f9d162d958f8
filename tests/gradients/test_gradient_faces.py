"""The comparison on the command line and as a picture."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest

from pyro_lvm import plots
from pyro_lvm.cli import main
from pyro_lvm.gradients import GUIDE, compare

EXAMPLE = Path(__file__).parents[2] / "examples" / "gradient_estimators.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(SystemExit) as ended:
        main(["fit", "ppca", "--latent-dim", "2", "--steps", "20", "--out", str(out), "--quiet"])
    assert ended.value.code == 0
    return out


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_json_has_the_figures_and_the_figure_is_drawn(run, tmp_path, capsys):
    """Both come from one comparison; a script reads the one, a person looks at the other."""
    figure = tmp_path / "noise.png"
    names = "reparameterization, score:2"
    arguments = ["--estimators", names, "--draws", "5", "--rows", "50", "--json", "--out", str(figure)]
    code, out, err = call(capsys, "gradients", str(run), *arguments)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["num_rows"], found["draws"]) == (50, 5)
    assert {row["estimator"] for row in found["estimates"]} == {"reparameterization", "score:2"}
    assert found["references"][0]["how"] == "closed form"
    assert np.ptp(matplotlib.image.imread(figure)) > 0.5


def test_a_table_is_printed_and_what_is_asked_wrongly_is_one_line(run, tmp_path, capsys):
    code, out, _ = call(capsys, "gradients", str(run), "--estimators", "score", "--draws", "3", "--rows", "20")
    assert code == 0
    assert "closed form" in out
    taken = tmp_path / "taken.png"
    taken.write_text("mine")
    for arguments, message in (
        (["--estimators", "enumeration"], "needs a discrete latent, and 'z' can be reparameterized"),
        (["--estimators", "scores"], "no gradient estimator 'scores'"),
        (["--draws", "1"], "expected 2 or more"),
        (["--rows", "0"], "expected 1 or more"),
        (["--rows", "20", "--batch-size", "21"], "expected no more than --rows"),
        (["--out", str(taken)], "exists: choose another --out"),
        (["--out", "noise.xyz"], "has an ending that isn't known"),
    ):
        code, out, err = call(capsys, "gradients", str(run), *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert message in err
    assert taken.read_text() == "mine"


def test_the_picture_shows_each_estimators_noise_by_its_name(make_ppca, ppca_rows):
    """A mark in another's line would turn the comparison upside down."""
    pair = make_ppca()
    names = ["score", "importance-weighted:2", "reparameterization"]
    found = compare(pair.model, pair.guide, ppca_rows, names, draws=10, pair=pair, progress=False)
    ax = plots.gradient_noise(found)
    ax.figure.canvas.draw()
    assert [label.get_text().split("  ")[0] for label in ax.get_yticklabels()] == names
    frame = found.to_frame()
    variance = frame[frame["parameter"] == GUIDE].set_index("estimator")["variance"]
    drawn = {tuple(line.get_ydata()): line.get_xdata() for line in ax.lines if line.get_marker() == "D"}
    np.testing.assert_allclose(drawn[0, 1, 2], variance.loc[names] ** 0.5)


@pytest.mark.slow
def test_the_example_tells_its_story(tmp_path):
    """What it says of score function and reparameterization must be what it prints."""
    command = [sys.executable, str(EXAMPLE), "--steps", "300", "--draws", "20"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    after = run.stdout.partition("ELBO after")[2]
    lost = {line.split()[0]: float(line.split()[-1]) for line in after.splitlines()[1:5]}
    assert lost["score"] > lost["score+network"] > 1.3 * lost["reparameterization"]
    assert np.ptp(matplotlib.image.imread(tmp_path / "runs/examples/gradient_estimators.png")) > 0.5
