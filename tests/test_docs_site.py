"""What the documentation's site is made of is there and up to date; `make docs` builds it."""

import re
from pathlib import Path

import pytest

import pyro_lvm
from pyro_lvm import guides, models
from pyro_lvm.catalogue import run_file
from pyro_lvm.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# A row of a table: an equation, and the line of code that it is.
ROW = re.compile(r"^\| (\$.+\$) \| `(.+)` \|$", re.MULTILINE)
FILES = re.compile(r"^Code: (.+)$", re.MULTILINE)


def sections() -> list[tuple[str, list[str], list[str]]]:
    """Title, files and lines of code of each section of the page on the mathematics that names files."""
    found = []
    for part in (DOCS / "mathematics.md").read_text().split("\n## ")[1:]:
        files = FILES.search(part)
        if files is not None:
            found.append((part.partition("\n")[0], re.findall(r"`(.+?)`", files[1]), [c for _, c in ROW.findall(part)]))
    return found


@pytest.mark.parametrize(("title", "files", "lines"), sections(), ids=[title for title, _, _ in sections()])
def test_the_line_beside_an_equation_is_in_the_code(title: str, files: list[str], lines: list[str]) -> None:
    # Wrong: a reader would compare an equation with code that isn't what runs.
    assert lines
    code = {line.strip() for name in files for line in (ROOT / name).read_text().splitlines()}
    assert [line for line in lines if line not in code] == []


def test_every_page_is_reached_and_every_reference_exists() -> None:
    # Wrong: a page would be built that nobody finds.
    listed = set(re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert listed - {"index.md", "results.md"} == there


def test_the_reference_has_what_the_package_offers() -> None:
    # Wrong: something public would have no page.
    shown = set(re.findall(r"^::: ([\w.]+)$", "".join(p.read_text() for p in DOCS.rglob("*.md")), re.MULTILINE))
    errors = {name for name in pyro_lvm.__all__ if name.endswith("Error")}
    assert "pyro_lvm.errors" in shown
    assert {f"pyro_lvm.{name}" for name in set(pyro_lvm.__all__) - errors} <= shown
    for family in (models, guides):
        assert {f"{family.__name__}.{name}" for name in family.__all__} <= shown


def test_commands_that_pages_show_exist() -> None:
    # Wrong: a reader who copies one would be told that there is no such command.
    known = {command.name for command in app.registered_commands}
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        shown = re.findall(r"^    pyro-lvm ([a-z][\w-]*)|`pyro-lvm ([a-z][\w-]*)", page.read_text(), re.MULTILINE)
        assert {a or b for a, b in shown} <= known, page.name


class TestDocstrings:
    @pytest.fixture
    def to_markdown(self):
        pytest.importorskip("griffe", reason="the site's tools are not installed: make docs")
        return run_file(DOCS / "docstrings.py").to_markdown

    def test_equations_become_markdowns(self, to_markdown) -> None:
        # Wrong: a page would show a directive's source instead of the equation.
        text = "One.\n\n.. math:: a = b,\n    \\quad c\n\nSee :math:`x_n`.\n\nArgs:\n    a: Of\n        .. math:: d\n"
        assert to_markdown(text) == (
            "One.\n\n$$\na = b, \\quad c\n$$\n\nSee \\(x_n\\).\n\nArgs:\n    a: Of\n        $$\n        d\n        $$\n"
        )

    def test_references_become_links_that_may_lead_nowhere(self, to_markdown) -> None:
        assert to_markdown("As :class:`~pyro.nn.PyroModule`.") == (
            'As <autoref identifier="pyro.nn.PyroModule" optional><code>PyroModule</code></autoref>.'
        )
