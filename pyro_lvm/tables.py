"""Graded figures as a table on a terminal."""

from __future__ import annotations

from rich.table import Table

from pyro_lvm.evidence import Estimate, Terms
from pyro_lvm.grading import Grade
from pyro_lvm.latent import Neighbourhoods

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


def evidence_table(
    elbo: Estimate, iwae: Estimate | None, exact: Estimate | None, terms: Terms, title: str = "evidence"
) -> Table:
    """A table of what is known of log p(x), with both errors, and of what the ELBO is made of.

    Args:
        elbo: The ELBO.
        iwae: The importance-weighted bound, where there is one.
        exact: The exact evidence, where it is known.
        terms: The ELBO's terms.
        title: Above the table.
    """
    table = Table(title=title)
    for heading in ("", "nats/row", "± rows", "± particles"):
        table.add_column(heading, justify="right" if heading else "left")
    if exact is not None:
        table.add_row("log-evidence, exact", f"{exact.mean:.4f}", _error(exact.row_standard_error), "")
    labels = {"iwae": "importance-weighted", "elbo": "ELBO"}
    for one in (iwae, elbo):
        if one is not None:
            label = f"{labels[one.kind]}, k = {one.num_particles}"
            errors = _error(one.row_standard_error), _error(one.particle_standard_error)
            table.add_row(label, f"{one.mean:.4f}", *errors)
    table.add_row(
        "  reconstruction",
        f"{terms.reconstruction.mean():.4f}",
        "",
        _error(terms.reconstruction_standard_error),
    )
    for name, value in terms.kl.items():
        how = "" if terms.analytic[name] else ", by Monte Carlo"
        table.add_row(f"  KL of {name}{how}", f"{value.mean():.4f}", "", "")
    for unit in terms.units:
        table.add_row(f"active dimensions of {unit.site}", f"{unit.num_active} of {len(unit.names)}", "", "")
    if iwae is not None and iwae.effective_sample_sizes is not None:
        sizes = iwae.effective_sample_sizes
        text = f"{sizes.median():.1f}, {sizes.min():.1f}"
        table.add_row("effective draws: median, least", text, "", "")
    return table


def neighbourhoods_table(kept: Neighbourhoods) -> Table:
    """A table of how well a latent space keeps neighbours, beside PCA and the rows themselves."""
    table = Table(title=f"neighbourhoods of {kept.num_rows} rows, k = {kept.num_neighbours}")
    for heading in ("", "latent space", "PCA of the same size", "rows themselves"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("trustworthiness", f"{kept.trustworthiness:.4f}", f"{kept.pca_trustworthiness:.4f}", "")
    table.add_row("continuity", f"{kept.continuity:.4f}", f"{kept.pca_continuity:.4f}", "")
    shares = (kept.accuracy, kept.pca_accuracy, kept.raw_accuracy)
    if all(share is not None for share in shares):
        table.add_row("label told by neighbours", *[f"{share:.1%}" for share in shares])
    return table


def _error(value: float) -> str:
    return "" if value != value else f"{value:.2g}"
