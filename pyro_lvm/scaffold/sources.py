"""Taking the source of a pair apart and putting it together under other names."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from sys import stdlib_module_names


def half(source: str, name: str, new_name: str) -> str:
    """A module with one class of a source alone, under another name, and the imports that it needs.

    Args:
        source: Of a module whose imports take one line each.
        name: The class.
        new_name: What it is called in the result.
    """
    tree = ast.parse(source)
    lines = source.splitlines()
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    used = {node.id for node in ast.walk(found) if isinstance(node, ast.Name)}
    summary = (ast.get_docstring(found) or name).splitlines()[0]
    parts = [f'"""{summary}"""', ""]
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
            node.names = [alias for alias in node.names if future or (alias.asname or alias.name) in used]
            if node.names:
                parts.append(ast.unparse(node))
            if lines[node.end_lineno or 0] == "" and parts[-1] != "":
                # The blank lines between groups of imports.
                parts.append("")
    code = lines[found.lineno - 1 : found.end_lineno]
    return rename("\n".join([*parts, "", *code, ""]), {name: new_name})


def rename(source: str, names: Mapping[str, str]) -> str:
    """A source with whole words replaced."""
    return re.sub("|".join(rf"\b{name}\b" for name in names), lambda found: names[found[0]], source)


def with_imports(source: str, added: Sequence[str], *, without: str | None = None) -> str:
    """A source with further ``from pyro_lvm.... import ...`` lines among its own, in order.

    Args:
        source: Of a module that has such lines.
        added: The lines.
        without: A module whose import is taken out.
    """
    for line in added:
        node = ast.parse(line).body[0]
        assert isinstance(node, ast.ImportFrom)
        before = [own for own in _imports(source) if (own.module or "") < (node.module or "")]
        lines = source.splitlines(keepends=True)
        lines.insert(before[-1].end_lineno or 0, f"{line}\n")
        source = "".join(lines)
    if without is not None:
        lines = source.splitlines(keepends=True)
        (old,) = (own for own in _imports(source) if own.module == without)
        del lines[old.lineno - 1 : old.end_lineno]
        source = "".join(lines)
    return source


def among_others(source: str) -> str:
    """A source whose imports of this package stand among those of other packages, as in a file outside of it."""
    nodes = [
        node
        for node in ast.parse(source).body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and _package(node) not in {"__future__", *stdlib_module_names}
    ]
    lines = source.splitlines(keepends=True)
    own = [lines[node.lineno - 1] for node in nodes]
    # `import` before `from`, each by the module's name.
    own.sort(key=lambda line: (line.startswith("from "), line.split()[1]))
    return "".join([*lines[: nodes[0].lineno - 1], *own, *lines[nodes[-1].end_lineno :]])


def _package(node: ast.Import | ast.ImportFrom) -> str:
    name = node.names[0].name if isinstance(node, ast.Import) else node.module or ""
    return name.split(".")[0]


def _imports(source: str) -> list[ast.ImportFrom]:
    return [
        node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom) and _package(node) == "pyro_lvm"
    ]


def bound_names(source: str) -> set[str]:
    """Names that a module's top level binds: imports, classes, functions, variables."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in ast.walk(node) if isinstance(target, ast.Name)}
    return names


def with_line(text: str, header: str, line: str) -> str:
    """A TOML text with a line at the end of one of its tables.

    Raises:
        ValueError: There is no such table.
    """
    lines = text.splitlines(keepends=True)
    start = lines.index(f"{header}\n")
    end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    return "".join([*lines[:end], f"{line}\n", *lines[end:]])
