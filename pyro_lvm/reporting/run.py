"""A saved run's page: what its sections say."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from pyro_lvm.criticizing import RunCheck, ppc_run
from pyro_lvm.data.writing import check_new_file
from pyro_lvm.errors import PairError
from pyro_lvm.evidence import Terms
from pyro_lvm.figures import save_figures
from pyro_lvm.judging import RunEvidence, RunJudgement, evidence_run
from pyro_lvm.mapping import RunLatent, latent_run
from pyro_lvm.progress import Reporter
from pyro_lvm.reading import LoadedRun, load_run
from pyro_lvm.reporting.judgement import judged, judgement_finding, judgement_section
from pyro_lvm.reporting.page import Finding, Page, Section, figures_of
from pyro_lvm.runs import Run, evaluate_run
from pyro_lvm.tables import evidence_table, grade_table, neighbourhoods_table, predictive_table

REPORT = "report.html"

# What a model may lack, and a guide stray, before a reader is told, nats a row: ten times what training stops at.
_WORTH_TELLING = 1e-2
# Of the rows that importance sampling looks at.
_ROWS, _PARTICLES = 500, 1000
_REPLICATES = 200
# Importance weights of a row are of no use above this k (Vehtari et al. 2024), and a few rows always are there. Where
# nearly all draws count, the weights hardly matter, whatever the shape of their tail.
_BAD_PARETO_K, _NEARLY_ALL, _FEW_ROWS = 0.7, 0.9, 0.05

_CAPTIONS = {
    "elbo": "The ELBO along the training.",
    "latent_map": "Posterior means of the rows, as the guide gives them.",
    "loadings": "What each latent direction does to the features.",
    "reconstructions": "Rows and what the model makes of their posterior means.",
    "prior_and_posterior": "Each row's latent drawn from the prior, and from the guide: what the guide has learned.",
    "kl_per_dimension": "What each latent dimension tells of a row.",
    "traversals": "One latent coordinate moved at a time.",
    "decoded_grid": "What the latent plane decodes to, over quantiles of the prior.",
    "interpolations": "On straight lines between the latent means of two rows.",
    "near_classes": "New rows, drawn where those of each class are.",
    "near_rows": "New rows, drawn near single rows.",
    "statistics": "Each statistic of the rows (line) among those of the replicates.",
    "densities": "The distribution of the rows' entries over that of replicates.",
    "pit": "Where the rows' entries fall among the replicates': even if the model is right.",
    "replicates": "Rows (first column) beside replicates of them.",
    "nearest_rows": "New rows above the training rows nearest to them: a copy would be at distance 0.",
}


def report_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    root: str | None = None,
    pair: str | None = None,
    device: str = "auto",
    seed: int = 0,
    force: bool = False,
    progress: bool = True,
) -> Path:
    """Write a saved run's page: one file of HTML that needs no network.

    Args:
        run: Folder of a run.
        out: The file; None for ``report.html`` in the run's folder, which is replaced if it is there.
        root: Folder of the run's own named data set.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        device: Where to compute.
        seed: Of everything drawn.
        force: Replace a file that is there.
        progress: Show how far it is.

    Returns:
        The file written.

    Raises:
        PyroLvmError: Anything given is unusable; what was there before is as it was.
    """
    path = Path(run) / REPORT if out is None else Path(out)
    with Reporter("report", enabled=progress) as reporter, tempfile.TemporaryDirectory() as folder:
        loaded = load_run(run, root=root, pair=pair, device=device)
        graded = evaluate_run(loaded)
        # Not before the run was found: a report makes no folder of its own.
        check_new_file(path, force=force or out is None)
        reporter.update(1, 6, "graded")
        evidence = _estimated(loaded, seed)
        reporter.update(2, 6, "evidence")
        verdicts = judged(loaded, Path(folder) / "judgement", seed)
        reporter.update(3, 6, "posterior")
        latent = _latent(loaded, Path(folder) / "latent", seed)
        reporter.update(4, 6, "latent space")
        checked = _checked(loaded, Path(folder) / "ppc", seed)
        reporter.update(5, 6, "predictive checks")
        page = Page(_title(graded), _subtitle(graded))
        page.findings = _findings(graded, evidence, checked, verdicts)
        page.sections = [
            _what(graded),
            _training(graded, Path(folder) / "fit"),
            *([] if evidence is None else [_evidence(evidence)]),
            *([] if verdicts is None else [judgement_section(verdicts)]),
            *([] if latent is None else [_latent_space(latent)]),
            *([] if checked is None else [_predictive(checked)]),
            _repeat(graded),
        ]
        page.write(path)
        reporter.update(6, 6, "written")
    return path


def _title(run: Run) -> str:
    return f"{run.metrics['pair']} on {run.metrics['data']}"


def _subtitle(run: Run) -> str:
    m = run.metrics
    steps = "" if m["stopped"] == "closed form" else f" after {m['steps']:,} steps"
    guide = f"{run.guide}; " if run.guide else ""
    return f"{guide}{m['stopped']}{steps}, {m['seconds']:.1f} s on {m['device']}; seed {m['seed']}"


def _findings(
    run: Run, evidence: RunEvidence | None, checked: RunCheck | None, verdicts: RunJudgement | None
) -> list[Finding]:
    """What a reader should know first, the worst at the top."""
    found: list[Finding] = []
    m, graded = run.metrics, run.training
    if not m["converged"] and m["stopped"] in ("not converged", "interrupted"):
        found.append(Finding("look", f"Training ended {m['stopped']}.", "Train longer before reading on."))
    if graded.elbo_agrees is False:
        found.append(
            Finding(
                "look",
                "The estimated ELBO is not log-evidence minus KL.",
                "One of the model's exact answers is wrong: pyro-lvm check names it.",
            )
        )
    for value, good, bad, advice in (
        (
            graded.gap,
            "The model is {} nats a row from the maximum of the likelihood.",
            "The model lacks {} nats a row that the maximum of the likelihood has.",
            "Train longer, or with a smaller learning rate.",
        ),
        (
            graded.kl_to_exact,
            "The guide is {} nats a row from the exact posterior.",
            "The guide strays {} nats a row from the exact posterior.",
            "Train the guide longer, or take a richer one.",
        ),
    ):
        if value is not None:
            fine = value < _WORTH_TELLING
            found.append(
                Finding("good", good.format(f"{value:.1e}"))
                if fine
                else Finding("look", bad.format(f"{value:.2g}"), advice)
            )
    if evidence is not None and evidence.iwae is not None and graded.kl_to_exact is None:
        looseness = evidence.iwae.mean - evidence.elbo.mean
        found.append(
            Finding(
                "good" if looseness < 1 else "look",
                f"The ELBO of {evidence.rows} rows is at least {max(looseness, 0.0):.2g} nats below the evidence.",
                "" if looseness < 1 else "The guide pays them: a richer one, or a larger encoder, may win some back.",
            )
        )
    if evidence is not None:
        found += _collapse(evidence.terms)
    if checked is not None:
        found += fit_findings(checked)
    if verdicts is not None:
        found.append(judgement_finding(verdicts))
    return sorted(found, key=lambda one: one.level == "good")


def _collapse(terms: Terms) -> list[Finding]:
    found = []
    for unit in terms.units:
        if unit.collapsed:
            names = ", ".join(unit.collapsed[:8]) + (", ..." if len(unit.collapsed) > 8 else "")
            found.append(
                Finding(
                    "look",
                    f"{len(unit.collapsed)} of {len(unit.names)} dimensions of {unit.site} have collapsed to the "
                    f"prior: {names}.",
                    "They say nothing of a row: fewer would do, or warm the KL up.",
                )
            )
        elif unit.num_active:
            used = "The one dimension" if unit.num_active == 1 else f"All {unit.num_active} dimensions"
            found.append(Finding("good", f"{used} of {unit.site} {'is' if unit.num_active == 1 else 'are'} in use."))
    return found


def fit_findings(checked: RunCheck) -> list[Finding]:
    """What the predictive checks and the importance weights say."""
    found = []
    misfits = [one.name for one in checked.check.misfits]
    if misfits:
        found.append(
            Finding(
                "look",
                f"The model does not make rows like these: {', '.join(misfits)} "
                f"{'stray' if len(misfits) > 1 else 'strays'} from what its replicates have.",
                "The predictive checks below say how; mend the model.",
            )
        )
    else:
        found.append(Finding("good", f"No predictive check of {checked.rows} rows finds a misfit."))
    known = None if checked.pareto_k is None else ~checked.pareto_k.isnan()
    if known is not None and bool(known.any()):
        assert checked.pareto_k is not None
        assert checked.effective_share is not None
        bad = (checked.pareto_k > _BAD_PARETO_K) & (checked.effective_share < _NEARLY_ALL)
        share = float(bad[known].double().mean())
        found.append(
            Finding(
                "look",
                f"The guide misses a part of the posterior of {share:.0%} of the rows: Pareto k above {_BAD_PARETO_K}, "
                f"and less than {_NEARLY_ALL:.0%} of their draws effective.",
                "What is computed from its draws is off there; pyro-lvm gap says whether a larger encoder would mend "
                "it or a richer family.",
            )
            if share > _FEW_ROWS
            else Finding(
                "good", f"The guide's draws can be reweighted to the posterior of {1 - share:.0%} of the rows."
            )
        )
    return found


def _what(run: Run) -> Section:
    assert run.artifact is not None
    config, rows = run.artifact.config, run.dataset.rows
    table = Table()
    table.add_column("")
    table.add_column("")
    missing = int(torch.isnan(rows).sum())
    held = run.held_out.num_rows if run.held_out is not None else 0
    image = run.dataset.image_shape
    for name, value in (
        ("model", _described(run.pair.model, config["pair"]["arguments"].get("model"))),
        ("guide", _described(run.pair.guide, config["pair"]["arguments"].get("guide"))),
        ("data", str(config["data"]["reference"])),
        ("rows", f"{len(rows):,}" + (f", of which {held:,} held out" if held else "")),
        (
            "features",
            f"{run.dataset.data_dim:,}" + ("" if image is None else f", images of {' x '.join(map(str, image))}"),
        ),
        ("missing entries", f"{missing:,} ({missing / rows.numel():.1%})" if missing else ""),
        ("scaled", "" if run.scaling.kind == "none" else run.scaling.kind),
        ("binarized", "" if config["data"].get("binarize", "none") == "none" else config["data"]["binarize"]),
        ("fitted by", str(config["training"].get("method", "svi"))),
    ):
        if value:
            table.add_row(name, value)
    return Section("What was fitted, on what", tables=[table])


def _described(half: Any, arguments: dict[str, Any] | None) -> str:
    own = getattr(half, "__name__", type(half).__name__)
    if not arguments:
        return own
    return f"{own}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def _training(run: Run, folder: Path) -> Section:
    assert run.artifact is not None
    d = run.dataset
    written = save_figures(
        folder,
        run.pair,
        run.scaling.transform(d.rows).to(run.pair.device),
        run.artifact.history,
        run.training,
        labels=d.labels,
        label_names=d.label_names,
        feature_names=d.feature_names,
        image_shape=d.image_shape,
        inverse=run.scaling.inverse,
    )
    text = [
        "Nats a row, in the units of the data. Where exact answers exist, they are what the pair is graded against."
    ]
    if left_out := run.metrics.get("rows_left_out"):
        text.append(
            f"Graded on complete rows: the {left_out:,} others are in the fit, but the guide can't take missing "
            "entries."
        )
    return Section(
        "Training, and the grade",
        text,
        [grade_table(run.training, run.held_out, title="")],
        figures_of(written, _CAPTIONS),
    )


def _estimated(run: LoadedRun, seed: int) -> RunEvidence | None:
    try:
        return evidence_run(run, k=_PARTICLES, num_rows=_ROWS, seed=seed, progress=False)
    except PairError:
        # A run by EM may have a guide that can't take the holes of its rows.
        return None


def _evidence(evidence: RunEvidence) -> Section:
    return Section(
        "Evidence",
        [
            f"Of {evidence.elbo.num_rows:,} {evidence.rows} rows. The importance-weighted bound rises to log p(x) with "
            "the number of draws; what it has above the ELBO, the guide costs at least."
        ],
        [evidence_table(evidence.elbo, evidence.iwae, evidence.exact, evidence.terms, "")],
    )


def _latent(run: LoadedRun, folder: Path, seed: int) -> RunLatent | None:
    try:
        return latent_run(run, folder, seed=seed)
    except PairError:
        # No latent space to look at: none that is continuous and a row's own, or several.
        return None


def _latent_space(latent: RunLatent) -> Section:
    return Section(
        "Latent space",
        [
            "Trustworthiness: whether near in the latent space is near in the data; continuity: the reverse. Both are "
            "1 at best."
        ],
        [neighbourhoods_table(latent.neighbourhoods)],
        figures_of(latent.written, _CAPTIONS),
    )


def _checked(run: LoadedRun, folder: Path, seed: int) -> RunCheck | None:
    try:
        return ppc_run(run, num_draws=_REPLICATES, out=folder, seed=seed, progress=False)
    except PairError:
        # Its rows can't be replicated.
        return None


def _predictive(checked: RunCheck) -> Section:
    found = checked.check
    return Section(
        "Predictive checks",
        [
            f"Statistics of {found.num_rows:,} {checked.rows} rows among those of {found.num_draws} replicates that "
            f"the model makes. The p-values are {found.note}."
        ],
        [predictive_table(found, f"{found.num_rows:,} rows")],
        figures_of([path for path in checked.written if path.suffix == ".png"], _CAPTIONS),
    )


def _repeat(run: Run) -> Section:
    assert run.artifact is not None
    config = run.artifact.config
    versions = ", ".join(f"{name} {number}" for name, number in config["versions"].items())
    digest = config["data"]["sha256"][:12]
    command = config.get("command")
    if command is None:
        text = "It was fitted from Python, by these options."
        command = json.dumps({name: config[name] for name in ("pair", "training")}, indent=2)
    else:
        text = "The command that made this run:"
    return Section("To repeat it", [f"{versions}; SHA-256 of the rows {digest}...", text], code=command)
