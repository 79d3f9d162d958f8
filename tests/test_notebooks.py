"""The notebooks as they are kept: executed in order, with figures, without errors, and true to the package."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def cells_of(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_there_are_eight_in_order() -> None:
    """A gap in the numbers would be a notebook that got lost."""
    assert [path.name.split("_")[0] for path in NOTEBOOKS] == list("12345678")


@each
def test_it_was_executed_from_top_to_bottom(path: Path) -> None:
    """Wrong: a reader sees what cells showed that were since edited, or run in another order."""
    nbformat.validate(nbformat.read(path, as_version=4))
    code = cells_of(path, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    # Warnings and progress go to stderr.
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@each
def test_it_can_be_read_anywhere(path: Path) -> None:
    """Wrong: too large for a code host to show, or full of one machine's paths and addresses."""
    assert path.stat().st_size < 1_000_000
    texts = [
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in cells_of(path, "code")
        for output in cell.outputs
    ]
    assert not [text for text in texts if re.search(r"/(root|home|usr|tmp|Users|work)/|site-packages| at 0x", text)]


@each
def test_it_opens_and_ends_as_it_should(path: Path) -> None:
    text = cells_of(path, "markdown")
    assert "**What this shows.**" in text[0].source
    assert text[-1].source.startswith("## What to try")
    for target in re.findall(r"\]\(([^)#:]+)\)", "\n".join(cell.source for cell in text)):
        assert (EXAMPLES / target).exists(), target


@each
def test_what_it_imports_is_there(path: Path) -> None:
    """Wrong: the package has moved on, and the notebook shows what no longer is."""
    code = "\n".join(cell.source for cell in cells_of(path, "code"))
    tree = ast.parse(re.sub(r"^%.*$", "", code, flags=re.MULTILINE))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module is not None]
    ours = [(node.module, name.name) for node in imports if node.module.startswith("pyro_lvm") for name in node.names]
    assert ours
    for module, name in ours:
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.import_module(f"{module}.{name}"), (module, name)
