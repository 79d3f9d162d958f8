"""The page of a run: everything on it is the run's, and nothing on it is fetched."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure as Drawing
from rich.table import Table

from pyro_lvm.cli import main
from pyro_lvm.criticizing import RunCheck
from pyro_lvm.predictive import PredictiveCheck
from pyro_lvm.reporting import Figure, Finding, Page, Section, report_run
from pyro_lvm.reporting.run import fit_findings
from pyro_lvm.runs import fit_run
from pyro_lvm.source import DataSource

# What a page shows of a judgement is tested here.
pytestmark = pytest.mark.usefixtures("no_annealing")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


class Outside(HTMLParser):
    """Collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data") and value is not None:
                (self.pictures if value.startswith("data:image/png;base64,") else self.addresses).append(value)
        assert tag not in ("script", "link", "iframe", "object")


@pytest.fixture(scope="module")
def saved(no_annealing: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that hardly trained, on a table with a label, made by the command line."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 2)) @ rng.normal(size=(2, 5)) + 0.2 * rng.normal(size=(120, 5))
    table = pd.DataFrame(rows, columns=list("abcde")).assign(kind=np.where(rows[:, 0] > 0, "<up>", "down"))
    table.to_csv(folder / "table.csv", index=False)
    options = ("--data", folder / "table.csv", "--label", "kind", "--latent-dim", 2, "--steps", 30, "--no-compile")
    assert run("fit", "ppca", *options, "--quiet", "--force", "--out", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def page(saved: Path) -> str:
    assert run("report", saved, "--quiet") == 0
    return (saved / "report.html").read_text(encoding="utf-8")


def test_a_page_fetches_nothing_and_holds_its_pictures(page: str) -> None:
    # Wrong: opened without a network, or years later, it would lack figures.
    found = Outside()
    found.feed(page)
    assert found.addresses == []
    assert "url(" not in page
    assert "http" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert len(found.pictures) >= 4
    for picture in found.pictures:
        assert base64.b64decode(picture.partition(",")[2]).startswith(b"\x89PNG")


def test_the_figures_on_the_page_are_those_that_evaluate_prints(
    page: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", saved, "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert f'<td class="right">{metrics["log_evidence"]:.5f}</td>' in page
    assert f'<td class="right">{metrics["kl_to_exact"]:.2e}</td>' in page


def test_an_untrained_guide_is_the_first_thing_a_reader_sees(page: str) -> None:
    # Wrong: a page that looks fine whatever the pair.
    findings = re.findall(r'<li class="(\w+)">(.*?)</li>', page)
    assert findings[0][0] == "look"
    assert any("strays" in text for level, text in findings if level == "look")
    levels = [level for level, _ in findings]
    assert levels == sorted(levels, reverse=True)


def test_the_page_says_whether_the_posterior_is_right(page: str) -> None:
    # Wrong: a guide that hardly trained, and no word of whose fault it is, or of what to do.
    section = page.split("<h2>Is the posterior right?</h2>")[1].split("</section>")[0]
    levels = dict(re.findall(r"<tr><td[^>]*>(\w+)</td><td[^>]*>(\w+)</td>", section))
    assert levels["contract"] == "good"
    assert levels["model"] == "bad"
    assert "→" in section
    assert section.count("data:image/png") == 4
    assert any("Most is lost by the model" in text for _, text in re.findall(r'<li class="(\w+)">(.*?)</li>', page))


def test_the_command_on_the_page_makes_the_same_run(page: str, saved: Path, tmp_path: Path) -> None:
    command = html.unescape(page.split("<pre>")[1].split("</pre>")[0]).split()
    assert command[0] == "pyro-lvm"
    assert not {"--quiet", "--force"} & set(command)
    again = [word if word != str(saved) else str(tmp_path / "again") for word in command[1:]]
    assert run(*again, "--quiet") == 0
    assert (tmp_path / "again/model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


def test_text_of_a_table_is_text(tmp_path: Path) -> None:
    # Wrong: a label or a column's name would become part of the page.
    table = Table("<b>name</b>", title="[bold]of[/] <i>x</i>")
    table.add_row("a & b")
    page = Page("<title>", "sub", [Finding("look", "<script>1</script>")], [Section("s", ["<p>"], [table])])
    page.write(tmp_path / "page.html")
    written = (tmp_path / "page.html").read_text()
    for markup in ("<b>", "<i>", "<script>", "<title><title>", "[bold]"):
        assert markup not in written
    assert "a &amp; b" in written


def test_a_picture_is_shown_as_large_as_it_was_drawn(tmp_path: Path) -> None:
    Drawing(figsize=(4, 2)).savefig(tmp_path / "a.png", dpi=150)
    assert Figure(tmp_path / "a.png", "").width == 4 * 96


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("nowhere",), "nowhere"), (("RUN", "--out", "RUN/config.json"), "--force"), (("RUN", "--out", "RUN"), "folder")],
)
def test_bad_input_is_one_line(
    saved: Path, arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (saved / "config.json").read_bytes()
    assert run("report", *(a.replace("RUN", str(saved)) for a in arguments)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pyro-lvm: ")]
    assert len(lines) == 1
    assert told in lines[0]
    assert (saved / "config.json").read_bytes() == before


def test_a_guide_for_complete_rows_beside_rows_with_holes(tmp_path: Path) -> None:
    # Wrong: no page at all of a run by EM whose guide can't take what the estimator takes, or no word of what it is of.
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(80, 1)) @ rng.normal(size=(1, 4)) + 0.3 * rng.normal(size=(80, 4))
    rows[:7, 1] = np.nan
    np.save(tmp_path / "x.npy", rows)
    fit = ("fit", "ppca", "--method", "em", "--guide", "full", "--data", tmp_path / "x.npy", "--latent-dim", 1)
    assert run(*fit, "--out", tmp_path / "run", "--quiet") == 0
    assert run("report", tmp_path / "run", "--quiet") == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Graded on complete rows: the 7 others are in the fit" in page
    assert "<h2>Predictive checks</h2>" in page


@pytest.mark.parametrize(("share", "level"), [(0.99, "good"), (0.3, "look")])
def test_a_long_tail_of_weights_that_hardly_differ_is_no_fault(share: float, level: str) -> None:
    # Wrong: a guide within a thousandth of a nat of the posterior is said to miss a part of it.
    check = PredictiveCheck((), "mixed", 40, 200, True, 0)
    found = fit_findings(RunCheck("held-out", 40, check, torch.full((40,), 0.9), torch.full((40,), share), []))
    assert [one.level for one in found] == ["good", level]


def test_a_run_from_python_says_its_options(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32))
    fit_run(
        "ppca",
        DataSource(str(tmp_path / "x.npy")),
        method="closed",
        options={"latent_dim": 1},
        out=tmp_path / "run",
        progress=False,
    )
    written = report_run(tmp_path / "run", progress=False)
    assert "&#34;method&#34;: &#34;closed&#34;" in written.read_text()
