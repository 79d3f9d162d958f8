"""What a saved run's pair is worth where no closed form says it: its evidence, its gap, and all verdicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from pyro_lvm import evidence
from pyro_lvm.errors import DataError
from pyro_lvm.evidence import Estimate, Gap, Sandwich, Terms
from pyro_lvm.judgement import Judgement, judge
from pyro_lvm.judgement_figures import judgement_figures
from pyro_lvm.pair import HasLogEvidence, acceptable, refuse_holes
from pyro_lvm.plots.files import write_figures
from pyro_lvm.reading import LoadedRun, load_run
from pyro_lvm.seeding import some_rows
from pyro_lvm.source import DataSource

# Rows that annealing looks at where nobody says how many: minutes, for a small network.
_AIS_ROWS = 100


@dataclass(frozen=True)
class RunEvidence:
    """The evidence of a run's model, in nats a row of the data's own units.

    Attributes:
        rows: Which rows: ``"training"`` or ``"held-out"``, as others that are given are too.
        elbo: The ELBO, from all particles.
        iwae: The importance-weighted bound; None where rows share latents.
        exact: The exact evidence, where the model knows it.
        terms: What the ELBO is made of.
        ais: The bound by annealed importance sampling, where it was asked for.
        sandwich: Both bounds on as many rows of the model's own, likewise.
    """

    rows: str
    elbo: Estimate
    iwae: Estimate | None
    exact: Estimate | None
    terms: Terms
    ais: Estimate | None = None
    sandwich: Sandwich | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        parts = {
            "elbo": self.elbo,
            "iwae": self.iwae,
            "exact": self.exact,
            "ais": self.ais,
            "sandwich": self.sandwich,
        }
        figures = {name: None if one is None else one.to_json() for name, one in parts.items()}
        return {"rows": self.rows, "num_rows": self.elbo.num_rows, **figures, "terms": self.terms.to_json()}


def evidence_run(
    run: str | Path | LoadedRun,
    source: DataSource | None = None,
    *,
    k: int = 5000,
    num_rows: int | None = None,
    ais: bool = False,
    temperatures: int = 1000,
    chains: int = 16,
    root: str | None = None,
    pair: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> RunEvidence:
    """Estimate the evidence of a saved run's model on its held-out rows, if it has any, its own rows, or others.

    Args:
        run: Folder of a run.
        source: Other rows; None for the run's own.
        k: Particles a row.
        num_rows: As many rows at random; None for all, or for 100 with ``ais``.
        ais: Bound the evidence by annealed importance sampling as well, and both ways on the model's own rows.
        temperatures: Of its path.
        chains: Of its, a row.
        root: Folder of the run's own named data set.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        device: Where to compute.
        seed: Of the choice of rows and of the draws.
        progress: Show how far it is.

    Returns:
        The figures.

    Raises:
        PyroLvmError: Anything given is unusable.
    """
    if k < 1 or (num_rows is not None and num_rows < 1):
        raise DataError(f"k={k}, rows={num_rows}: expected whole numbers from 1 up")
    loaded = load_run(run, source, root=root, pair=pair, device=device)
    which, rows = loaded.judged()
    rows = _chosen(rows, _AIS_ROWS if ais and num_rows is None else num_rows, seed)
    scaled = loaded.scaling.transform(rows).to(loaded.pair.device)
    refuse_holes(loaded.pair, scaled)
    shift = loaded.scaling.row_log_jacobian(rows).cpu()

    def in_units(estimate: Estimate) -> Estimate:
        return replace(estimate, per_row=estimate.per_row - shift)

    total = loaded.num_training_rows
    terms = evidence.elbo_terms(loaded.pair, scaled, min(k, 16), num_rows=total, seed=seed)
    terms = replace(terms, reconstruction=terms.reconstruction - shift)
    if evidence.elbo(loaded.pair, scaled[:2], 1, num_rows=total).shared_latents:
        elbo = evidence.elbo(loaded.pair, scaled, min(k, 16), num_rows=total, seed=seed, progress=progress)
        iwae = None
    else:
        elbo, iwae = evidence.bounds(loaded.pair, scaled, k, seed=seed, progress=progress)
    exact = in_units(evidence.exact(loaded.pair, scaled)) if isinstance(loaded.pair.model, HasLogEvidence) else None
    annealed = both = None
    if ais:
        annealed = in_units(evidence.ais(loaded.pair, scaled, temperatures, chains, seed=seed, progress=progress))
        both = evidence.sandwich(loaded.pair, scaled, temperatures, chains, seed=seed, progress=progress)
        # Of rows that the model made of its own, in the units of those that it was given.
        both = Sandwich(in_units(both.lower), in_units(both.upper))
    return RunEvidence(which, in_units(elbo), None if iwae is None else in_units(iwae), exact, terms, annealed, both)


@dataclass(frozen=True)
class RunGap:
    """The gap of a run's pair, in nats a row of the data's own units.

    Attributes:
        training: Of rows that it was trained on.
        held_out: Of rows that were held out, or of others that are given; None where there are none.
        advice: What is worth doing about it.
    """

    training: Gap
    held_out: Gap | None
    advice: str

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        held_out = None if self.held_out is None else self.held_out.to_json()
        return {"training": self.training.to_json(), "held_out": held_out, "advice": self.advice}


def gap_run(
    run: str | Path,
    source: DataSource | None = None,
    *,
    num_rows: int = 100,
    temperatures: int = 1000,
    chains: int = 16,
    root: str | None = None,
    pair: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> RunGap:
    """Take the gap of a saved run's pair apart, on rows that it was trained on and on held-out ones.

    Args:
        run: Folder of a run.
        source: Other rows, in place of the held-out ones; None for the run's own alone.
        num_rows: As many rows of each at random.
        temperatures: Of annealed importance sampling, where the model doesn't know its evidence.
        chains: Of its, a row.
        root: Folder of the run's own named data set.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        device: Where to compute.
        seed: Of the choice of rows and of the draws.
        progress: Show how far it is.

    Raises:
        PyroLvmError: Anything given is unusable.
    """
    if num_rows < 1:
        raise DataError(f"rows={num_rows}: expected a whole number from 1 up")
    loaded = load_run(run, root=root, pair=pair, device=device)
    training, held_out = loaded.parts()
    if source is not None:
        held_out = loaded.others(source).rows

    def gap(rows: Tensor) -> Gap:
        rows = _chosen(rows, num_rows, seed)
        scaled = loaded.scaling.transform(rows).to(loaded.pair.device)
        known = isinstance(loaded.pair.model, HasLogEvidence)
        bound = None if known else evidence.ais(loaded.pair, scaled, temperatures, chains, seed=seed, progress=progress)
        found = evidence.take_apart(loaded.pair, scaled, evidence=bound, seed=seed, progress=progress)
        return found.shifted(-loaded.scaling.row_log_jacobian(rows).cpu())

    judged = None if held_out is None else gap(held_out)
    own = gap(training)
    return RunGap(own, judged, evidence.advice(own, judged))


@dataclass(frozen=True)
class RunJudgement:
    """What was found out about a run's pair.

    Attributes:
        judgement: The verdicts.
        rows: Which rows it was judged on: ``"training"`` or ``"held-out"``, as others that are given are too.
        left_out: How many of these have holes that the guide can't take.
        written: The figures.
    """

    judgement: Judgement
    rows: str
    left_out: int
    written: list[Path]

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        written = [path.name for path in self.written]
        return {**self.judgement.to_json(), "rows": self.rows, "left_out": self.left_out, "written": written}


def judge_run(
    run: str | Path | LoadedRun,
    source: DataSource | None = None,
    *,
    budget: Literal["quick", "full"] = "quick",
    num_rows: int | None = None,
    out: str | Path | None = None,
    root: str | None = None,
    pair: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> RunJudgement:
    """Say how wrong the posterior of a saved run's pair is, and whose fault that is.

    Args:
        run: Folder of a run.
        source: Rows to judge it on; None for the run's held-out ones, if it has any, else those of its training.
        budget: ``"quick"`` or ``"full"``.
        num_rows: As many rows of each at random, for what is looked at row by row; None for 50 or 100.
        out: Folder for figures; None for none.
        root: Folder of the run's own named data set.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        device: Where to compute.
        seed: Of the choice of rows and of all that is drawn.
        progress: Show each verdict's level, and its seconds, as it comes.

    Raises:
        PyroLvmError: Anything given is unusable.
    """
    # Not only after the work.
    if out is not None:
        write_figures(out, {})
    loaded = load_run(run, root=root, pair=pair, device=device)
    training, held_out = loaded.parts()
    which = "training" if held_out is None else "held-out"
    if source is not None:
        which, held_out = load_run(loaded, source).judged()
    judged = training if held_out is None else held_out
    found = judge(
        loaded.pair,
        loaded.scaling.transform(training),
        None if held_out is None else loaded.scaling.transform(held_out),
        budget=budget,
        num_rows=num_rows,
        log_jacobian=loaded.scaling.row_log_jacobian,
        seed=seed,
        progress=progress,
    )
    left_out = len(judged) - int(acceptable(loaded.pair, judged).sum())
    return RunJudgement(found, which, left_out, [] if out is None else write_figures(out, judgement_figures(found)))


def _chosen(rows: Tensor, num_rows: int | None, seed: int) -> Tensor:
    """So many rows at random, in order; all for None."""
    return rows if num_rows is None else some_rows(rows, num_rows, np.random.default_rng(seed))
