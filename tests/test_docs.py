"""What the pages of docs show runs as it stands there, and prints what they say it prints."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pyro
import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
# A block of code, and what it prints where the page shows it.
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)\n```)?", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_code_of_a_page_runs(page: Path, tmp_path, monkeypatch) -> None:
    # Wrong: a reader who copies it gets a traceback, or something else than the page promises.
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    pyro.set_rng_seed(0)
    for code, shown in BLOCK.findall(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), names)
        if shown:
            assert printed.getvalue().rstrip() == shown


def test_what_pages_link_to_exists() -> None:
    for page in [*PAGES, DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
