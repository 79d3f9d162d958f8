"""What examples and benchmarks import from the package is there: most of them run too long for the other tests."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path for folder in ("examples", "benchmarks") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_script_finds_what_it_imports(path: Path) -> None:
    # Wrong: a name that was moved is missed when a person runs the script.
    wanted = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "pyro_lvm"
        for alias in node.names
    ]
    for module, name in wanted:
        assert hasattr(importlib.import_module(module), name) or importlib.import_module(f"{module}.{name}")
