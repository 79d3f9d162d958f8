"""The page on discrete latents shows what its code prints."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "discrete_latents.md"
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)\n```)?", re.DOTALL)


def test_every_block_runs_and_prints_what_the_page_shows() -> None:
    if not PAGE.is_file():
        pytest.skip("the documentation is not beside the tests")
    names: dict[str, Any] = {"__name__": "page"}
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) >= 2
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        assert printed.getvalue().rstrip() == shown
