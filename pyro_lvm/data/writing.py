"""Files that are written beside their place and then put there, so that what was there survives whatever goes wrong."""

from __future__ import annotations

import contextlib
import csv
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pyro_lvm.errors import DataError


def check_new_file(path: Path, *, force: bool) -> None:
    """Check that a file can be written, to be asked before the work is done.

    Args:
        path: the file.
        force: whether one that is there may be replaced.

    Raises:
        DataError: it is there, or can't be written.
    """
    try:
        if path.is_dir():
            raise DataError(f"'{path}' is a folder: expected the name of a file to write")
        if path.exists() and not force:
            raise DataError(f"'{path}' exists: choose another --out, or replace it with --force")
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise DataError(f"can't write '{str(path)[:80]}': {error.strerror or error}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside a file's, and put what is written there in the file's place.

    Args:
        path: the file; one that is there stays as it is until the new one is complete.

    Yields:
        A name with the file's endings.

    Raises:
        DataError: where it can't be written.
    """
    folder = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
        yield Path(folder.name) / path.name
        os.replace(Path(folder.name) / path.name, path)
    except OSError as error:
        raise DataError(
            f"writing '{path}' failed ({error.strerror or error}): what was there before is as it was"
        ) from error
    finally:
        if folder is not None:
            folder.cleanup()


def write_table(
    path: Path, parts: Iterable[pd.DataFrame], *, delimiter: str = ",", header: Sequence[str] | bool = True
) -> None:
    """Write a table as text, or as Parquet where the name says so.

    Args:
        path: the file.
        parts: the table's rows, in one part or more of the same columns, of which only one is in memory at a time;
            their indices aren't written.
        delimiter: between two cells of text.
        header: the first line's cells in place of the columns' names; False for no such line.

    Raises:
        DataError: where it can't be written.
    """
    with replacing(path) as beside:
        if path.suffix.lower() == ".parquet":
            _write_parquet(beside, parts)
        else:
            names = header if isinstance(header, bool) else list(header)
            # Cells that blanks separate have none, and quotes in them are their own.
            quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == " " else csv.QUOTE_MINIMAL
            for index, part in enumerate(parts):
                part.to_csv(
                    beside,
                    sep=delimiter,
                    header=False if index else names,
                    index=False,
                    quoting=quoting,
                    mode="a" if index else "w",
                )


def _write_parquet(path: Path, parts: Iterable[pd.DataFrame]) -> None:
    tables = (pa.Table.from_pandas(part, preserve_index=False) for part in parts)
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)
