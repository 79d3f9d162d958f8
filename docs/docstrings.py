"""The package's docstrings as Markdown: their equations and their references to other parts of it."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Extension

BLOCK = re.compile(r"^( *)\.\. math:: *(.*(?:\n\1 +\S.*)*)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")


class Docstrings(Extension):
    """Rewrites each docstring before it is read."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """A docstring whose equations and references are Markdown's."""
    text = BLOCK.sub(_block, text)
    text = INLINE.sub(r"\\(\1\\)", text)
    return ROLE.sub(_reference, text)


def _block(found: re.Match[str]) -> str:
    equation = " ".join(line.strip() for line in found[2].splitlines())
    return textwrap.indent(f"$$\n{equation}\n$$", found[1])


def _reference(found: re.Match[str]) -> str:
    shown = found[2].rpartition(".")[2] if found[1] else found[2]
    # To what isn't on the site it leads nowhere.
    return f'<autoref identifier="{found[2]}" optional><code>{shown}</code></autoref>'
