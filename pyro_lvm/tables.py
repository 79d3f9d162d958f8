"""Graded figures as a table on a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from pyro_lvm.calibration import Calibration
from pyro_lvm.evidence import Estimate, Gap, Sandwich, Terms, advice
from pyro_lvm.grading import Grade
from pyro_lvm.judgement import Judgement
from pyro_lvm.latent import Neighbourhoods
from pyro_lvm.predictive import PredictiveCheck
from pyro_lvm.predictive.results import UNITS
from pyro_lvm.wording import plus_minus

_ROWS = (
    ("log_evidence_ml", "best log-evidence (maximum likelihood)", "nats/row", ".5f"),
    ("log_evidence", "log-evidence of the model", "nats/row", ".5f"),
    ("gap", "gap: what the model lacks", "nats/row", ".2e"),
    ("elbo", "ELBO, by Monte Carlo", "nats/row", ".5f"),
    ("plug_in_evidence", "plug-in evidence: shared latents at their means", "nats/row", ".5f"),
    ("predictive_evidence", "predictive evidence: over draws of shared latents", "nats/row", ".5f"),
    ("elbo_exact", "ELBO, exact", "nats/row", ".5f"),
    ("kl_to_exact", "KL(guide || exact posterior)", "nats/row", ".2e"),
    ("principal_angle_deg", "angle to the principal subspace", "degrees", ".3f"),
    ("noise_variance", "noise variance", "", ".6g"),
    ("noise_variance_ml", "noise variance, maximum likelihood", "", ".6g"),
)

# Lines that can still be read.
_MOST_QUANTITIES = 20
_COLOURS = {"good": "green", "look": "yellow", "bad": "red", "unknown": "dim"}


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
            cells = ["" if v is None else format(v, form) for v in values]
            if key == "elbo":
                cells = [plus_minus(g.elbo, g.elbo_standard_error) for g in grades]
            table.add_row(label, *cells, unit)
    return table


def evidence_table(
    elbo: Estimate,
    iwae: Estimate | None,
    exact: Estimate | None,
    terms: Terms,
    title: str = "evidence",
    *,
    ais: Estimate | None = None,
    sandwich: Sandwich | None = None,
) -> Table:
    """A table of what is known of log p(x), with both errors, and of what the ELBO is made of.

    Args:
        elbo: The ELBO.
        iwae: The importance-weighted bound, where there is one.
        exact: The exact evidence, where it is known.
        terms: The ELBO's terms.
        title: Above the table.
        ais: The bound by annealed importance sampling, where there is one.
        sandwich: Both bounds on the model's own rows, where there are.
    """
    table = Table(title=title)
    for heading in ("", "nats/row", "± rows", "± particles"):
        table.add_column(heading, justify="right" if heading else "left")
    if exact is not None:
        table.add_row("log-evidence, exact", f"{exact.mean:.4f}", _error(exact.row_standard_error), "")
    labels = {"ais": "annealed, chains =", "iwae": "importance-weighted, k =", "elbo": "ELBO, k ="}
    for one in (ais, iwae, elbo):
        if one is not None:
            label = f"{labels[one.kind]} {one.num_particles}"
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
    if ais is not None and ais.acceptances is not None and ais.effective_sample_sizes is not None:
        sizes = ais.effective_sample_sizes
        table.add_row("effective chains: median, least", f"{sizes.median():.1f}, {sizes.min():.1f}", "", "")
        accepted = f"{ais.acceptances.mean():.2f}, {ais.acceptances.min():.2f}"
        table.add_row("moves accepted: mean, least", accepted, "", "")
    if sandwich is not None:
        label = "upper less lower bound on the model's own rows"
        table.add_row(label, f"{sandwich.width:.4f}", _error(sandwich.standard_error), "")
    return table


def gap_table(training: Gap, held_out: Gap | None = None, title: str = "the gap taken apart") -> Table:
    """A table of what separates the ELBO from the evidence, with Monte Carlo errors, and what to do beneath.

    Args:
        training: Of rows that the pair was trained on.
        held_out: Of others, a column more.
        title: Above the table.
    """
    gaps = [gap for gap in (training, held_out) if gap is not None]
    table = Table(title=title, caption=advice(training, held_out), caption_justify="left")
    table.add_column("nats/row")
    for name, gap in zip(("training", "held-out"), gaps, strict=False):
        table.add_column(f"{name} ({gap.elbo.num_rows} rows)", justify="right")
    kind = training.evidence.kind
    named = {"exact": "log-evidence, exact", "ais": "log-evidence, at least (annealed)"}
    lines: list[tuple[str, list[Estimate | None]]] = [
        (named.get(kind, f"log-evidence, at least ({kind})"), [gap.evidence for gap in gaps]),
        ("ELBO of a row's best Gaussian with correlations", [gap.full for gap in gaps]),
        ("ELBO of a row's best q in the guide's family", [gap.best for gap in gaps]),
        ("ELBO of the guide", [gap.elbo for gap in gaps]),
    ]
    for label, estimates in lines:
        if any(one is not None for one in estimates):
            table.add_row(label, *["" if one is None else f"{one.mean:.4f}" for one in estimates])
    table.add_section()
    table.add_row(
        "approximation gap: what the family lacks",
        *[plus_minus(float(gap.approximation.mean()), gap.approximation_standard_error) for gap in gaps],
    )
    gains = [gap.gained_by_full for gap in gaps]
    if any(gain is not None for gain in gains):
        table.add_row("  of which correlations give", *["" if gain is None else f"{gain:.4f}" for gain in gains])
    table.add_row(
        "amortization gap: what the encoder misses",
        *[plus_minus(float(gap.amortization.mean()), gap.amortization_standard_error) for gap in gaps],
    )
    if any(gap.finished < 1 for gap in gaps):
        table.add_row("rows with something left to gain", *[f"{1 - gap.finished:.0%}" for gap in gaps])
    return table


def calibration_table(found: Calibration, title: str = "calibration on rows of the model's own") -> Table:
    """A table of ranked quantities, those that stray most first, with what is wrong beneath.

    Args:
        found: The calibration.
        title: Above the table.
    """
    said = "; ".join(found.diagnosis) if found.diagnosis else f"nothing wrong: p = {found.p_value:.2g} over all"
    beneath = escape("\n".join([said, *found.notes]))
    table = Table(title=f"{title} ({found.num_simulations:,} rows)", caption=beneath, caption_justify="left")
    for heading in ("quantity", "p, adjusted", "shift", "width"):
        table.add_column(heading, justify="left" if heading == "quantity" else "right")
    shown = sorted(found.quantities, key=lambda one: one.p_value)[:_MOST_QUANTITIES]
    for one in shown:
        p = f"{one.adjusted_p_value:.1g}"
        table.add_row(
            escape(one.name),
            f"[red]{p}[/red]" if one.flagged else p,
            _effect(one.location, one.location_error, "" if one.kind == "confidence" else " sd"),
            _effect(one.scale, one.scale_error, "", sign=""),
        )
    if len(shown) < len(found.quantities):
        table.add_row(f"and {len(found.quantities) - len(shown)} more", "", "", "")
    for label, coverage in (("highest density", found.coverage), ("TARP", found.tarp)):
        if coverage is not None:
            covered = f"{coverage.at(0.5):.0%}, {coverage.at(0.9):.0%}"
            table.add_row(f"regions of 50%, 90% ({label}) hold the truth in", covered, "", "")
    return table


def judgement_table(found: Judgement, title: str) -> Table:
    """A table of verdicts, a line each with what to do beneath, and whose fault it is below them.

    Args:
        found: The judgement.
        title: Above the table.
    """
    table = Table(title=title, caption=escape(found.summary), caption_justify="left", caption_style="bold")
    for heading in ("", "verdict", "what was found, and what to do"):
        table.add_column(heading, no_wrap=heading != "what was found, and what to do", overflow="fold")
    for one in found.verdicts:
        colour = _COLOURS[one.level]
        # A site's name, or what a pair's author wrote, is no markup.
        advice = f"\n[dim]→ {escape(one.advice)}[/dim]" if one.advice else ""
        table.add_row(one.name, f"[{colour}]{one.level}[/{colour}]", escape(one.found) + advice)
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


def predictive_table(check: PredictiveCheck, rows: str) -> Table:
    """A table of predictive checks, a statistic a line, with what its p-values are to be read as beneath.

    Args:
        check: The checks.
        rows: What is said of the rows.
    """
    title = f"{rows} against {check.replicates}"
    caption = f"p-values: {check.note}\nstatistics: {UNITS}"
    table = Table(title=title, caption=caption, caption_justify="left")
    for heading in ("statistic", "rows", "replicates", "z", "p", "verdict"):
        table.add_column(heading, justify="left" if heading in ("statistic", "verdict") else "right")
    for one in check.statistics:
        verdict = {"misfit": "[red]misfit[/red]", "doubtful": "[yellow]doubtful[/yellow]"}.get(one.verdict, one.verdict)
        z = "" if one.alike else f"{one.z:.3g}"
        observed = f"{one.observed[one.worst]:.3g}"
        table.add_row(escape(one.label), observed, one.expected, z, f"{one.p_value:.2g}", verdict)
    return table


def _effect(value: float, error: float, unit: str, *, sign: str = "+") -> str:
    return "" if value != value else f"{value:{sign}.2f} ± {error:.1g}{unit}"


def _error(value: float) -> str:
    return "" if value != value else f"{value:.2g}"
