"""What the pages of docs show runs as it stands there."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
# The page of the contract has tests of its own.
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{index + 1}")
    for page in sorted(DOCS.glob("*.md"))
    if page.stem != "contract"
    for index, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_code_of_a_page_runs(block: str, tmp_path, monkeypatch) -> None:
    # Wrong: a reader who copies it gets a traceback.
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs", "exec"), {"__name__": "__main__"})


def test_pages_that_are_linked_exist() -> None:
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
