"""Putting findings in order: what causes what, and what is the same mistake over again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from pyro_lvm.checking.findings import Finding
from pyro_lvm.checking.running import ROLES, attempt, first_line
from pyro_lvm.checking.sites import family, samples
from pyro_lvm.checking.view import View


class Collector:
    """Findings in the order of what causes what: of a site that has an error, what follows from it isn't said."""

    def __init__(self) -> None:
        self._found: list[Finding] = []
        self._more: dict[int, int] = {}
        self._keys: list[tuple[str, str | None]] = []

    @property
    def errors(self) -> bool:
        """Whether there is an error among them."""
        return any(f.severity == "error" for f in self._found)

    @property
    def codes(self) -> set[str]:
        """What was found so far."""
        return {f.code for f in self._found}

    def add(self, part: Callable[[], Iterable[Finding]], view: View | None = None) -> None:
        """Take in what a part of the check finds; a part that fails itself says so."""
        taken, error = attempt(lambda: list(part()))
        if error is not None:
            message = f"a part of the check raised {first_line(error)}: what it looks at is unknown"
            taken = [Finding("check-incomplete", "warning", None, message)]
        for finding in taken:
            key = (finding.code, _group(finding.site, view))
            if key in self._keys:
                place = self._keys.index(key)
                self._more[place] = self._more.get(place, 0) + (finding.site != self._found[place].site)
            elif not self._is_consequence(finding, key[1]):
                self._keys.append(key)
                self._found.append(finding)

    def _is_consequence(self, finding: Finding, group: str | None) -> bool:
        return finding.site is not None and any(
            held == group and f.severity == "error" for f, (_, held) in zip(self._found, self._keys, strict=True)
        )

    def __iter__(self) -> Iterator[Finding]:
        complete = [
            dataclasses.replace(f, message=f"{f.message} (and {self._more[i]} sites like it)")
            if self._more.get(i)
            else f
            for i, f in enumerate(self._found)
        ]
        return iter(sorted(complete, key=lambda finding: finding.severity != "error"))


def _group(site: str | None, view: View | None) -> str | None:
    """A site's name; for one of a sequential plate, what all of its sites are called."""
    if site is None or view is None:
        return site
    for role in ROLES:
        held = samples(view.large.traces[role]).get(site)
        if held is not None and any(frame.dim is None for frame in held["cond_indep_stack"]):
            return family(site)
    return site
