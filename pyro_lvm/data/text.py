"""Tables in text files: find the delimiter and the header, refuse ragged rows, and let pandas read the rest."""

import contextlib
import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pyro_lvm.data.checks import first_line
from pyro_lvm.data.columns import check_distinct, is_missing_word, number_in
from pyro_lvm.errors import DataError

_WHITESPACE = r"\s+"
_SAMPLE_RECORDS = 100


class Verbatim(NamedTuple):
    """A text file's cells as they are written.

    Attributes:
        cells: text; the columns bear the names that :func:`read_text` gives them.
        header: the first line's cells, None where it is a row of data.
        delimiter: between two cells; a blank where it is any number of them.
    """

    cells: pd.DataFrame
    header: list[str] | None
    delimiter: str


def read_text(path: Path, *, whitespace: bool = False, header: bool | None = None) -> pd.DataFrame:
    """Read a delimited text file (comma, semicolon or tab, found by looking), plain or gzip-compressed.

    Args:
        path: the file; a name that ends in ``.gz`` is decompressed.
        whitespace: whether columns may also be separated by runs of spaces.
        header: whether the first line holds the columns' names. ``None`` looks: it does if it is text all through, or
            text above a column of numbers and itself free of numbers, or counts 0, 1, 2 and on as pandas numbers its
            columns.

    Returns:
        The table; columns without a header are named ``"0"``, ``"1"`` and on.

    Raises:
        DataError: for an empty, ragged, undecodable or damaged file, or one with two columns of the same name.
    """
    return _read(path, whitespace, header).cells


def read_verbatim(path: Path, *, whitespace: bool = False) -> Verbatim:
    """Read a delimited text file as :func:`read_text` does, and leave every cell the text that it is.

    Args:
        path: the file; a name that ends in ``.gz`` is decompressed.
        whitespace: whether columns may also be separated by runs of spaces.

    Returns:
        The cells, and what else it takes to write such a file.

    Raises:
        DataError: for an empty, ragged, undecodable or damaged file, or one with two columns of the same name.
    """
    return _read(path, whitespace, None, dtype=str, na_filter=False)


def _read(path: Path, whitespace: bool, header: bool | None, **options: Any) -> Verbatim:
    """Find out how a file is laid out and let pandas read it, with further options of ``read_csv``."""
    try:
        with _open(path) as handle:
            delimiter, sample = _sniff(handle, whitespace)
            if not sample:
                raise DataError(f"{path.name} is empty: expected a table of numbers; check the path")
            _check_widths(itertools.islice(_records(handle, delimiter), _SAMPLE_RECORDS), path.name)
            has_header = _looks_like_header(sample) if header is None else header
            names = [cell.strip() for cell in sample[0]] if has_header else [str(i) for i in range(len(sample[0]))]
            names = [name or f"Unnamed: {index}" for index, name in enumerate(names)]
            check_distinct(names, name=path.name)
            handle.seek(0)
            table = pd.read_csv(
                handle,
                sep=delimiter,
                header=0 if has_header else None,
                names=names,
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
                quoting=csv.QUOTE_NONE if delimiter == _WHITESPACE else csv.QUOTE_MINIMAL,
                **options,
            )
            last = table.iloc[:, -1]
            if (last.isna() | (last.astype(object) == "")).any():
                # pandas refuses a row that is too long, but fills one that is too short with missing values.
                _check_widths(_records(handle, delimiter), path.name)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} isn't UTF-8 text: expected a table as text; save it as CSV in UTF-8") from error
    except (OSError, EOFError, zlib.error, csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(
            f"{path.name} can't be read ({first_line(error)}): expected a table as text; check the file"
        ) from error
    if table.empty:
        raise DataError(
            f"{path.name} has a header and no rows: expected rows of numbers below {names[0]!r}; check the file"
        )
    return Verbatim(table, list(sample[0]) if has_header else None, " " if delimiter == _WHITESPACE else delimiter)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[io.TextIOWrapper]:
    # newline="": line ends inside quotes are the csv module's business. utf-8-sig: spreadsheets write a mark in front.
    with (
        gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb") as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as handle,
    ):
        yield handle


def _records(handle: io.TextIOWrapper, delimiter: str, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every record that isn't blank (pandas skips blank lines as well)."""
    handle.seek(0)
    if delimiter == _WHITESPACE:
        for number, line in enumerate(handle, start=1):
            if fields := line.split():
                yield number, fields
        return
    reader = csv.reader(handle, delimiter=delimiter, skipinitialspace=True, strict=strict)
    for fields in reader:
        if fields not in ([], [""]):
            yield reader.line_num, fields


def _sniff(handle: io.TextIOWrapper, whitespace: bool) -> tuple[str, list[list[str]]]:
    """The delimiter that cuts the first records into equally many fields, and those records."""
    # In this order: where commas are decimal points, they too come equally often in every row.
    candidates = ["\t", ";", ",", *([_WHITESPACE] if whitespace else [])]
    samples = {
        delimiter: [fields for _, fields in itertools.islice(_records(handle, delimiter), _SAMPLE_RECORDS)]
        for delimiter in candidates
    }
    for delimiter, sample in samples.items():
        widths = {len(fields) for fields in sample}
        if len(widths) == 1 and widths != {1} and _quotes_match(handle, delimiter):
            return delimiter, sample
    # One column, or a ragged file: then the first record tells best what was meant.
    delimiter = max(reversed(candidates), key=lambda candidate: len(samples[candidate][0]) if samples[candidate] else 0)
    return delimiter, samples[delimiter]


def _quotes_match(handle: io.TextIOWrapper, delimiter: str) -> bool:
    """Whether quotes are around whole fields: by a wrong delimiter one may open within a name, and take in the rest."""
    try:
        for _ in itertools.islice(_records(handle, delimiter, strict=True), _SAMPLE_RECORDS):
            pass
    except csv.Error:
        return False
    return True


def _looks_like_header(sample: Sequence[Sequence[str]]) -> bool:
    first = [cell.strip() for cell in sample[0]]
    text = [index for index, cell in enumerate(first) if number_in(cell) is None]
    if len(text) == len(first):
        return True
    if not text:
        # What pandas writes above columns without names, with or without the cell above its index.
        counted = first[1:] if first[0] == "" else first
        return len(counted) > 2 and counted == [str(index) for index in range(len(counted))]
    if any(number_in(cell) is not None and not is_missing_word(cell) for cell in first):
        return False
    # Empty cells and text: a header with gaps, or a row of data with a label in it.
    below = [
        [number_in(fields[index]) for fields in sample[1:] if not is_missing_word(fields[index])] for index in text
    ]
    return any(column and None not in column for column in below)


def _check_widths(records: Iterable[tuple[int, Sequence[str]]], name: str) -> None:
    expected = 0
    for line, fields in records:
        expected = expected or len(fields)
        if len(fields) != expected:
            raise DataError(
                f"{name} has {len(fields)} field{'s' * (len(fields) != 1)} in line {line}: "
                f"expected {expected} as in its first line; give every row as many"
            )
