"""Progress of long work: a bar on a terminal or in a notebook, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Work that ends sooner needs no bar, and a log no line.
_QUIET_SECONDS = 2.0
_LINE_EVERY_SECONDS = 10.0


class _Display(Protocol):
    def show(self, done: int, total: int, note: str) -> None: ...

    def close(self) -> None: ...


class _Terminal:
    def __init__(self, title: str, console: Console) -> None:
        self._bar = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=None, note="")
        self._bar.start()

    def show(self, done: int, total: int, note: str) -> None:
        self._bar.update(self._task, completed=done, total=total, note=note)

    def close(self) -> None:
        self._bar.stop()


class _Notebook:
    def __init__(self, title: str) -> None:
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(desc=title, leave=False)

    def show(self, done: int, total: int, note: str) -> None:
        self._bar.total = total
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.n = done
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


class _Lines:
    def __init__(self, title: str) -> None:
        self._title = title
        self._last = float("-inf")

    def show(self, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY_SECONDS:
            self._last = now
            print(f"{self._title}: {done}/{total} {note}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Reporter:
    """Shows how far a piece of work is, from the third second on; a context manager.

    Args:
        title: What is being done.
        enabled: False shows nothing.
    """

    def __init__(self, title: str, *, enabled: bool = True) -> None:
        self._title = title
        self._enabled = enabled
        self._display: _Display | None = None
        self._started = time.monotonic()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` is done, with a note such as the current ELBO."""
        if not self._enabled or time.monotonic() - self._started < _QUIET_SECONDS:
            return
        if self._display is None:
            self._display = self._choose()
        self._display.show(done, total, note)

    def _choose(self) -> _Display:
        if _in_notebook():
            return _Notebook(self._title)
        console = Console(stderr=True)
        return _Terminal(self._title, console) if console.is_terminal else _Lines(self._title)

    def __enter__(self) -> Reporter:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _CURRENT.reset(self._token)
        if self._display is not None:
            self._display.close()


_CURRENT: ContextVar[Reporter | None] = ContextVar("pyro_lvm_reporter", default=None)


def report(done: int, total: int, note: str = "") -> None:
    """Show how far a part is of the work that a :class:`Reporter` shows, if one does.

    For what is called with no word on progress, as a model's ``start`` is.
    """
    reporter = _CURRENT.get()
    if reporter is not None:
        reporter.update(done, total, note)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell is not None else None
    return instance is not None and type(instance).__name__ == "ZMQInteractiveShell"
