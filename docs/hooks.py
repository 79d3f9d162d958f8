"""What the documentation's site needs beyond its pages: other files of the checkout, the command line, equations."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any

import typer
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from typer.cli import get_docs_for_click

from pyro_lvm.cli import app

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "runs" / "docs_source"
# Pages that lie elsewhere in the checkout.
ELSEWHERE = {"index.md": "README.md", "results.md": "benchmarks/RESULTS.md"}
COMMANDS = "<!-- commands -->"
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)#]+)(#[^)]*)?\)")
# What a browser fetches by itself; a link is followed by a person.
FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//|url\([\"']?(?:https?:)?//")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_startup(**_: Any) -> None:
    """Put the package together as it is installed, with its models and guides inside."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    package = SOURCE / "pyro_lvm"
    package.mkdir(parents=True)
    for path in [*(ROOT / "pyro_lvm").iterdir(), ROOT / "models", ROOT / "guides"]:
        (package / path.name).symlink_to(path)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie elsewhere."""
    for page, path in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links between files of the checkout lead to the pages made of them, and describe the command line."""
    name = page.file.src_uri
    folder = (ROOT / ELSEWHERE.get(name, f"docs/{name}")).parent
    pages = {(ROOT / path).resolve(): page for page, path in ELSEWHERE.items()}

    def to_page(found: re.Match[str]) -> str:
        text, path, place = found[1], (folder / found[2]).resolve(), found[3] or ""
        if path in pages:
            return f"[{text}]({pages[path]}{place})"
        if not path.is_relative_to(ROOT / "docs"):
            # A file of the checkout that is no page.
            return text
        return f"[{text}]({path.relative_to(ROOT / 'docs')}{place})" if name in ELSEWHERE else found[0]

    markdown = LINK.sub(to_page, markdown)
    if COMMANDS in markdown:
        command = typer.main.get_command(app)
        shown = get_docs_for_click(obj=command, ctx=typer.Context(command), name="pyro-lvm")
        # The page has a title of its own.
        markdown = markdown.replace(COMMANDS, shown.partition("\n")[2])
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Turn equations into MathML, which browsers draw by themselves."""
    return EQUATION.sub(_to_mathml, html)


def on_post_build(config: Any, **_: Any) -> None:
    """Refuse a site that a reader without a network couldn't see whole."""
    for path in Path(config.site_dir).rglob("*"):
        if path.suffix in (".html", ".css"):
            found = FETCHED.search(path.read_text(encoding="utf-8"))
            if found:
                raise PluginError(f"{path} fetches something from another host: {found[0]}")


def _to_mathml(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    mathml: str = convert(html.unescape(found[2]).strip(), display=display)
    # The converter leaves a function's name and its argument without a gap.
    return mathml.replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.17em"/>')
