"""Graded figures as a table on a terminal."""

from __future__ import annotations

from rich.table import Table

from pyro_lvm.grading import Grade

_ROWS = (
    ("log_evidence_ml", "best log-evidence (maximum likelihood)", "nats/row", ".5f"),
    ("log_evidence", "log-evidence of the model", "nats/row", ".5f"),
    ("gap", "gap: what the model lacks", "nats/row", ".2e"),
    ("elbo", "ELBO, by Monte Carlo", "nats/row", ".5f"),
    ("plug_in_evidence", "plug-in evidence: shared latents at their means", "nats/row", ".5f"),
    ("elbo_exact", "ELBO, exact", "nats/row", ".5f"),
    ("kl_to_exact", "KL(guide || exact posterior)", "nats/row", ".2e"),
    ("principal_angle_deg", "angle to the principal subspace", "degrees", ".3f"),
    ("noise_variance", "noise variance", "", ".6g"),
    ("noise_variance_ml", "noise variance, maximum likelihood", "", ".6g"),
)


def grade_table(
    training: Grade, held_out: Grade | None = None, title: str = "graded against the exact answers"
) -> Table:
    """A table of what a pair was graded.

    Args:
        training: On the training rows.
        held_out: On held-out rows, a column more.
        title: Above the table.
    """
    table = Table(title=title)
    table.add_column("")
    grades = [g for g in (training, held_out) if g is not None]
    for name, graded in zip(("training", "held-out"), grades, strict=False):
        table.add_column(f"{name} ({graded.num_rows} rows)", justify="right")
    table.add_column("unit")
    for key, label, unit, form in _ROWS:
        values = [getattr(g, key) for g in grades]
        if any(v is not None for v in values):
            table.add_row(label, *["" if v is None else format(v, form) for v in values], unit)
    return table
