"""A page of HTML that holds all it shows: text, tables and pictures, and nothing to be fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table
from rich.text import Text

from pyro_lvm.data.writing import replacing
from pyro_lvm.plots.files import DPI

_CSS_DPI = 96


@dataclass(frozen=True)
class Finding:
    """A line at the top of the page.

    Attributes:
        level: ``good``, or ``look`` where a person should.
        text: What was found.
        advice: What to do about it; empty where there is nothing to be done.
    """

    level: Literal["good", "look"]
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture and what it shows.

    Attributes:
        path: A PNG file, read when the page is written.
        caption: Below it.
    """

    path: Path
    caption: str

    @property
    def source(self) -> str:
        """The picture itself, as an address."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode("ascii")

    @property
    def width(self) -> int:
        """How wide it is to be shown, in pixels of CSS: as large as it was drawn."""
        with self.path.open("rb") as file:
            # In a PNG the size stands right after the signature and the header's name.
            return round(int.from_bytes(file.read(20)[16:20], "big") * _CSS_DPI / DPI)


def figures_of(written: Iterable[Path], captions: Mapping[str, str]) -> list[Figure]:
    """Pictures with what they show, which ``captions`` says by their files' names without the ending."""
    return [Figure(path, captions.get(path.stem, "")) for path in written]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Its heading.
        text: Paragraphs.
        tables: Tables as for a terminal.
        figures: Pictures.
        code: A command or a configuration, shown as it is.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    code: str = ""


@dataclass
class Page:
    """A page.

    Attributes:
        title: Its heading.
        subtitle: Below it.
        findings: What a reader should know first.
        sections: The rest.
    """

    title: str
    subtitle: str
    findings: list[Finding] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all.

        Raises:
            OSError: It can't be written.
        """
        environment = Environment(
            loader=PackageLoader("pyro_lvm.reporting", "."),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        html = environment.get_template("page.html").render(page=self, tabled=_tabled)
        with replacing(path) as beside:
            beside.write_text(html, encoding="utf-8")


def _tabled(table: Table) -> dict[str, Any]:
    """A terminal's table as headings and rows of plain text, with the sides that the columns stand on."""

    def plain(cell: Any) -> str:
        return Text.from_markup(cell).plain if isinstance(cell, str) else str(cell)

    columns = [[plain(cell) for cell in column.cells] for column in table.columns]
    return {
        "title": plain(table.title or ""),
        "headings": [plain(column.header) for column in table.columns],
        "sides": ["right" if column.justify == "right" else "left" for column in table.columns],
        "rows": list(zip(*columns, strict=True)),
    }
