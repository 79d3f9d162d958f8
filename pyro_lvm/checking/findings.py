"""What a contract check found: findings, the codes they bear, and the result that holds them."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyro_lvm.errors import PairError

Severity = Literal["error", "warning"]

# The contract, item by item, and the findings that say where a pair breaks it.
CONTRACT: dict[str, dict[str, str]] = {
    "halves": {
        "not-callable": "a half is a class or no callable at all",
        "wrong-signature": "a half doesn't take the batch of rows as its one argument",
        "rows-overwritten": "a half changes the rows in place, so that the other sees different data",
        "model-raises": "the model raises an exception",
        "guide-raises": "the guide raises an exception",
    },
    "sites": {
        "latent-missing-in-guide": "the guide doesn't draw one of the model's latents, which keeps its prior",
        "unknown-guide-site": "the guide draws something that the model doesn't know",
        "observed-in-guide": "the guide observes something",
        "nothing-observed": "the model observes nothing",
        "duplicate-site": "a half makes two sites, or two plates, of one name",
        "sites-vary": "the sites differ from run to run on the same rows",
        "enumeration-without-traceenum": "a site asks for enumeration, which only TraceEnum_ELBO does",
    },
    "plates": {
        "plate-missing": "a site that depends on the rows is outside the data plate, or in the plate in one half only",
        "plate-name-mismatch": "the same plate has another name in the other half",
        "plate-size-mismatch": "a plate's size isn't the number of rows given, or differs between the halves",
        "plate-dim-wrong": "a plate is at another dimension than its rows, or than in the other half",
        "plate-subsamples": "the plate draws rows of its own instead of taking the ones given",
    },
    "shapes": {
        "wrong-log-prob-shape": "a log-probability isn't one number a row: to_event or a mask is wrong",
        "event-shape-mismatch": "model and guide disagree about the shape of one draw of a latent",
    },
    "supports": {
        "support-mismatch": "the guide draws values that the prior rules out",
        "support-narrower": "the guide can't reach all of the prior's support",
    },
    "scale": {
        "wrong-scale": "inside the data plate a log-probability isn't scaled by N/B, or not alike in both halves",
        "tempered": "log-probabilities are multiplied by a constant: what is trained is no ELBO",
        "plate-ignores-num-rows": "minibatches come from N rows, which the plate doesn't know",
        "importance-weights-on-minibatch": "an importance-weighted loss of Pyro's on a minibatch is no bound",
    },
    "values": {
        "parameter-out-of-range": "a distribution was given a parameter outside its domain, as a negative scale",
        "range-not-enforced": "nothing keeps a distribution's parameter in its domain while it is trained",
        "observed-outside-support": "rows are outside the support of their distribution",
        "log-prob-not-finite": "a log-probability is NaN or infinite",
    },
    "missing": {
        "missing-entries": "the rows have missing entries, which the pair can't take",
    },
    "gradients": {
        "elbo-raises": "the ELBO can't be computed or differentiated",
        "gradient-not-finite": "a parameter's gradient is NaN or infinite",
        "gradient-absent": "the ELBO depends on a parameter that receives no gradient: it is detached",
        "parameter-not-registered": "the ELBO depends on a parameter that Pyro never sees: it would not be trained",
        "parameter-unused": "a parameter changes nothing",
    },
    "batches": {
        "smaller-batch-fails": "a smaller batch, such as the last of an epoch, breaks the pair",
        "single-row-fails": "a single row breaks the pair",
    },
    "rows": {
        "rows-not-independent": "what is computed for one row changes with the other rows",
        "not-amortized": "the guide's distribution doesn't depend on the row",
    },
    "prediction": {
        "uncondition-fails": "the model can't draw what it observes",
    },
    "saving": {
        "state-not-saved": "something that the ELBO depends on is lost when the pair is saved and loaded",
    },
    "check": {
        "check-incomplete": "a part of the check couldn't be carried out",
    },
}

CODES: dict[str, str] = {code: meaning for codes in CONTRACT.values() for code, meaning in codes.items()}


@dataclass(frozen=True)
class Finding:
    """One place where a pair breaks the contract.

    Attributes:
        code: Stable short name of what was found, one of :data:`CODES`.
        severity: ``"error"`` for what makes training wrong or impossible, ``"warning"`` for what one should know.
        site: The sample site or the parameter, None where it is the whole pair.
        message: What was found, what was expected, and how to mend it; one line.
    """

    code: str
    severity: Severity
    site: str | None
    message: str

    def __str__(self) -> str:
        at = f" at '{self.site}'" if self.site is not None else ""
        return f"{self.severity}: {self.code}{at}: {self.message}"


@dataclass(frozen=True)
class CheckResult:
    """The findings of a contract check, the most telling first; iterating gives them, printing shows a table.

    Attributes:
        findings: What was found.
        pair: What the pair is called.
        complete: False where errors kept the check from looking at the rest.
    """

    findings: tuple[Finding, ...]
    pair: str
    complete: bool = True

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make training wrong or impossible."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that one should know of."""
        return tuple(f for f in self.findings if f.severity == "warning")

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def raise_for_errors(self) -> None:
        """Raise the first error, if there is one.

        Raises:
            PairError: In one line, with the number of the other errors.
        """
        if self.ok:
            return
        first, others = self.errors[0], len(self.errors) - 1
        at = f" at '{first.site}'" if first.site is not None else ""
        more = f" (and {others} more error{'s' if others > 1 else ''}: see check_pair)" if others else ""
        raise PairError(f"{first.code}{at}: {first.message}{more}")

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON."""
        return {
            "pair": self.pair,
            "ok": self.ok,
            "complete": self.complete,
            "findings": [dict(vars(finding)) for finding in self.findings],
        }

    @property
    def summary(self) -> str:
        """One line: how many errors and warnings."""
        if not self.findings:
            return f"{self.pair}: nothing found"
        counts = [
            f"{len(found)} {word}{'s' if len(found) > 1 else ''}"
            for found, word in ((self.errors, "error"), (self.warnings, "warning"))
            if found
        ]
        rest = "" if self.complete else "; the rest is looked at once the errors are mended"
        return f"{self.pair}: {', '.join(counts)}{rest}"

    def table(self) -> Table:
        """The findings as a table, a line each."""
        table = Table(title=escape(self.summary), title_justify="left", show_lines=True)
        for heading in ("", "code", "site", "finding"):
            table.add_column(heading, no_wrap=heading == "code", overflow="fold")
        colours = {"error": "red", "warning": "yellow"}
        for f in self.findings:
            # What a pair's author wrote is no markup.
            table.add_row(f.severity, f.code, escape(f.site or ""), escape(f.message), style=colours[f.severity])
        return table

    def __rich__(self) -> Table | str:
        return self.table() if self.findings else escape(self.summary)

    def __str__(self) -> str:
        if not self.findings:
            return self.summary
        text = io.StringIO()
        Console(file=text, width=120, no_color=True).print(self.table())
        return text.getvalue().rstrip()

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in ((f.severity, f.code, f.site or "", f.message) for f in self.findings)
        )
        head = "<tr><th></th><th>code</th><th>site</th><th>finding</th></tr>" if rows else ""
        return f"<p>{html.escape(self.summary)}</p><table>{head}{rows}</table>"
