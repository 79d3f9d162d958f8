"""What the top of a page says of a judgement."""

import pytest

from pyro_lvm.judgement import Judgement, Level, Verdict
from pyro_lvm.judging import RunJudgement
from pyro_lvm.reporting.judgement import judgement_finding


@pytest.mark.parametrize(
    ("unknown", "level"),
    [("contract", "look"), ("posterior", "look"), ("calibration", "look"), ("family", "good"), ("none", "good")],
)
def test_a_page_is_not_green_where_the_posterior_is_not_known(unknown: str, level: Level) -> None:
    """Wrong: a tick beside a posterior of which nothing could be found out."""
    names = ("contract", "posterior", "family", "calibration")
    verdicts = tuple(Verdict(name, "unknown" if name == unknown else "good", "") for name in names)
    judgement = Judgement(verdicts, "in sum", "training", 9, "quick")
    finding = judgement_finding(RunJudgement(judgement, "training", 0, []))
    assert (finding.level, finding.text) == (level, "in sum")
