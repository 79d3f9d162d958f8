"""The page on the contract shows what the check really says, and names every code."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pyro
import pytest

from pyro_lvm.checking import CODES

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)\n```)?", re.DOTALL)


@pytest.fixture(scope="module")
def page() -> str:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside the tests")
    return PAGE.read_text()


def test_every_block_runs_and_prints_what_the_page_shows(page: str) -> None:
    blocks = BLOCK.findall(page)
    assert len(blocks) >= 4
    names: dict[str, Any] = {"__name__": "page"}
    pyro.set_rng_seed(0)
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        assert printed.getvalue().rstrip() == shown


def test_the_page_names_every_code_and_what_it_means(page: str) -> None:
    for code, meaning in CODES.items():
        assert f"| `{code}` | {meaning} |" in page
