"""Grading a pair against the truth, in nats a row, where its model knows the truth."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_lvm.elbo import elbo_draws
from pyro_lvm.errors import DataError
from pyro_lvm.linear_gaussian import principal_angle
from pyro_lvm.mixture_posterior import posterior_kl
from pyro_lvm.pair import (
    Encodes,
    HasExactPosterior,
    HasLogEvidence,
    HasMaximumLikelihood,
    HasPlugInEvidence,
    Pair,
    SharesLatents,
    refuse_holes,
)
from pyro_lvm.progress import report
from pyro_lvm.seeding import seeded, some_rows
from pyro_lvm.wording import plus_minus

# Draws a row for the ELBO: near the exact posterior every draw gives the same value, and far from it the standard error
# says how little they tell.
_ELBO_PARTICLES = 16
# The ELBO by Monte Carlo and the one by the algebra come from different code; more standard errors apart than this, or
# more nats than float32 can lose in a row's sums, and one of the two is wrong.
_ELBO_ERRORS = 6.0
_FLOAT32_ERROR = 1e-5
# Rows times features whose posteriors are compared together.
_CHUNK_ENTRIES = 2**22
# Draws of what rows share, and the rows, times features, that they are averaged for: what these gain on the shared
# latents' means stands for what the others do.
_SHARED_DRAWS, _SHARED_ENTRIES, _LEAST_ROWS = 512, 2**16, 100


@dataclass(frozen=True)
class Grade:
    """How good a model and its guide are on some rows; nats a row, None for what the pair cannot tell.

    Attributes:
        num_rows: Rows graded on.
        log_evidence: Mean exact log p(x) under the trained model.
        log_evidence_ml: The same under the model at the maximum of the likelihood of the training rows, which the
            model's ``maximum_likelihood`` finds: in closed form or by EM; of a mixture, the maximum that is nearest.
        gap: ``log_evidence_ml - log_evidence``: how far the model is from the best.
        kl_to_exact: Mean KL(q || exact posterior): how far the guide is from the truth.
        elbo: The ELBO, estimated from Pyro's traces.
        elbo_standard_error: Of that estimate, over draws.
        elbo_exact: ``log_evidence - kl_to_exact``, what the ELBO must be.
        principal_angle_deg: Largest angle between the span of the loadings and the best one, degrees. It can be large
            at a tiny gap, where eigenvalues nearly tie.
        noise_variance: Of the trained model, in the squared units of the rows as the pair sees them.
        noise_variance_ml: At the maximum of the likelihood.
        plug_in_evidence: For latents that all rows share, log p(x) with these at their posterior means: it leaves out
            what is uncertain about them, so it is neither the evidence nor a bound on it.
        predictive_evidence: For latents that all rows share, the log of the mean of p(x) over draws of them from the
            guide, which counts what is uncertain: of held-out rows, how likely the trained pair finds them. By 512
            draws; more would raise it. Of a large table, what it is above ``plug_in_evidence`` is that of some rows.
    """

    num_rows: int
    elbo: float
    elbo_standard_error: float
    log_evidence: float | None = None
    log_evidence_ml: float | None = None
    gap: float | None = None
    kl_to_exact: float | None = None
    elbo_exact: float | None = None
    principal_angle_deg: float | None = None
    noise_variance: float | None = None
    noise_variance_ml: float | None = None
    plug_in_evidence: float | None = None
    predictive_evidence: float | None = None

    @property
    def elbo_agrees(self) -> bool | None:
        """Whether the estimated ELBO is the exact one within its error; None where there is no exact one."""
        if self.elbo_exact is None:
            return None
        allowed = _ELBO_ERRORS * self.elbo_standard_error + _FLOAT32_ERROR * (1 + abs(self.elbo_exact))
        return abs(self.elbo - self.elbo_exact) <= allowed

    def __str__(self) -> str:
        """A line for each figure that is known."""
        known = {name: f"{value:.6g}" for name, value in vars(self).items() if value is not None}
        del known["num_rows"], known["elbo_standard_error"]
        known["elbo"] = plus_minus(self.elbo, self.elbo_standard_error)
        width = max(map(len, known))
        lines = [f"  {name.ljust(width)}  {value}" for name, value in known.items()]
        return "\n".join([f"graded on {self.num_rows:,} rows; log-densities in nats a row, angles in degrees", *lines])

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        return dict(vars(self))


def grade(pair: Pair, x: Tensor, *, train_rows: Tensor | None = None, seed: int = 0) -> Grade:
    r"""Grade a pair on rows, against exact answers where its model has them.

    .. math:: \text{ELBO} = \log p(x) - \mathrm{KL}(q(z \mid x) \,\|\, p(z \mid x))

    The model's exact evidence and posterior are computed in float64; the ELBO is estimated separately from Pyro's own
    traces, so that the identity is checked, not assumed.

    Args:
        pair: A trained pair.
        x: Rows to grade on, shape (rows, ...).
        train_rows: The rows that the model was trained on, where ``x`` is others; the maximum of the likelihood is
            theirs.
        seed: Of the ELBO's draws.

    Returns:
        The figures, means over the rows.
    """
    x = x.to(pair.device)
    refuse_holes(pair, x)
    fitted_to = x if train_rows is None else train_rows.to(pair.device)
    with pair.evaluating():
        elbos = elbo_draws(pair, x, _ELBO_PARTICLES, num_rows=len(fitted_to), seed=seed)
    figures: dict[str, Any] = {
        "num_rows": len(x),
        "elbo": float(elbos.mean()),
        "elbo_standard_error": float(elbos.std() / math.sqrt(_ELBO_PARTICLES)),
    }
    model = pair.model
    with pair.evaluating(), seeded(seed):
        if isinstance(model, HasLogEvidence):
            figures["log_evidence"] = float(model.log_evidence(x).mean())
        if isinstance(model, HasExactPosterior) and isinstance(pair.guide, Encodes):
            kl = _mean_kl(model, pair.guide, x)
            figures["kl_to_exact"] = kl
            if "log_evidence" in figures:
                figures["elbo_exact"] = figures["log_evidence"] - kl
        if isinstance(model, HasPlugInEvidence) and isinstance(pair.guide, SharesLatents):
            shared = pair.guide.shared_means()
            plug_in = model.plug_in_evidence(x, shared).double()
            figures["plug_in_evidence"] = float(plug_in.mean())
            count = max(_LEAST_ROWS, _SHARED_ENTRIES // max(1, x[:1].numel()))
            some = some_rows(torch.arange(len(x), device=x.device), count, np.random.default_rng(seed))
            gained = _predictive_evidence(pair, model, x[some], shared) - plug_in[some]
            figures["predictive_evidence"] = float(plug_in.mean() + gained.mean())
        noise_variance = getattr(model, "noise_variance", None)
        if isinstance(noise_variance, Tensor) and noise_variance.numel() == 1:
            figures["noise_variance"] = float(noise_variance)
        if isinstance(model, HasMaximumLikelihood):
            # Rows that lie in d dimensions or fewer have no finite maximum: there is nothing to compare with.
            with suppress(DataError):
                figures |= _against_maximum_likelihood(model, x, fitted_to, figures.get("log_evidence"))
    return Grade(**figures)


def _mean_kl(model: HasExactPosterior, guide: Encodes, x: Tensor) -> float:
    rows = max(1, _CHUNK_ENTRIES // max(1, x[:1].numel()))
    parts = [posterior_kl(guide.encode(part), model.exact_posterior(part)) for part in x.split(rows)]
    return float(torch.cat(parts).mean())


def _predictive_evidence(pair: Pair, model: HasPlugInEvidence, x: Tensor, shared: Collection[str]) -> Tensor:
    """log of the mean of p(x | shared) over draws of q(shared), shape (rows,)."""
    total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    for draw in range(_SHARED_DRAWS):
        report(draw, _SHARED_DRAWS, "draws of what rows share")
        with poutine.block():
            trace: Any = poutine.trace(pair.run_guide).get_trace(x[:1])
        given = model.plug_in_evidence(x, {name: trace.nodes[name]["value"] for name in shared})
        total = torch.logaddexp(total, given.double())
    return total - math.log(_SHARED_DRAWS)


def _against_maximum_likelihood(
    model: HasMaximumLikelihood, x: Tensor, fitted_to: Tensor, log_evidence: float | None
) -> dict[str, float]:
    best: Any = model.maximum_likelihood(fitted_to)
    log_evidence_ml = float(best.log_evidence(x).mean())
    figures = {"log_evidence_ml": log_evidence_ml}
    if log_evidence is not None:
        figures["gap"] = log_evidence_ml - log_evidence
    loadings = getattr(model, "loadings", None)
    if isinstance(loadings, Tensor) and loadings.ndim == 2:
        figures["principal_angle_deg"] = principal_angle(loadings, best.loadings)
    if isinstance(getattr(best, "noise_variance", None), Tensor) and best.noise_variance.numel() == 1:
        figures["noise_variance_ml"] = float(best.noise_variance)
    return figures
