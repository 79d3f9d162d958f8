"""What a person sees of long work."""

import pytest

from pyro_lvm import progress
from pyro_lvm.progress import Reporter


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_part_is_shown_where_its_whole_is(capsys: pytest.CaptureFixture[str]) -> None:
    # Wrong: a start that takes long would look like a program that hangs, or speak where it was asked to be quiet.
    progress.report(1, 9, "nobody asked")
    with Reporter("outer"):
        progress.report(2, 9, "a part")
        with Reporter("inner", enabled=False):
            progress.report(3, 9, "quiet")
        progress.report(4, 9, "again")
    progress.report(5, 9, "over")
    assert capsys.readouterr().err.splitlines() == ["outer: 2/9 a part", "outer: 4/9 again"]
