"""The page's section on whether the posterior is right."""

from __future__ import annotations

from pathlib import Path

from pyro_lvm.errors import PairError
from pyro_lvm.judging import RunJudgement, judge_run
from pyro_lvm.reading import LoadedRun
from pyro_lvm.reporting.page import Finding, Section, figures_of
from pyro_lvm.tables import judgement_table

TITLE = "Is the posterior right?"
# Enough to see what is plainly wrong: a page is to be had in less than a minute.
_ROWS = 20
_CAPTIONS = {
    "gap": "What separates the ELBO from log p(x), and whose it is.",
    "weights": "Above 0.7, no reweighting makes the guide's draws those of the posterior.",
    "ranks": "Ranks of the true latents of simulated rows among the guide's draws: within the band if it is right.",
    "coverage": "How often regions hold the truth, beside how often the guide says.",
}


def judged(run: LoadedRun, folder: Path, seed: int) -> RunJudgement | None:
    """Judge a run on few rows; None where its guide can take none of them."""
    try:
        return judge_run(run, num_rows=_ROWS, out=folder, seed=seed, progress=False)
    except PairError:
        return None


def judgement_finding(result: RunJudgement) -> Finding:
    """What it comes to, for the top of the page."""
    found = result.judgement
    unsure = {verdict.name for verdict in found.verdicts if verdict.level == "unknown"}
    if found.level == "unknown" and unsure & {"contract", "posterior", "calibration"}:
        return Finding("look", found.summary, f'"{TITLE}" below says why.')
    if found.level in ("good", "unknown"):
        return Finding("good", found.summary)
    return Finding("look", found.summary, f'"{TITLE}" below says what to do about each.')


def judgement_section(result: RunJudgement) -> Section:
    """The verdicts, and the pictures behind them."""
    found = result.judgement
    text = (
        f"Judged on {found.num_rows} {result.rows} rows, and on rows that the model made itself. good: nothing to be "
        "done; look: off by little; bad: by so much that what is read off the guide changes; unknown: it couldn't be "
        "found out. pyro-lvm judge --full looks closer."
    )
    figures = figures_of(result.written, _CAPTIONS)
    return Section(TITLE, [text], [judgement_table(found, "")], figures)
