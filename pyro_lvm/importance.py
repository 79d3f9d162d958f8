"""An importance-weighted bound that stays a bound on minibatches."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_lvm.errors import PairError


class ImportanceWeightedELBO(Trace_ELBO):
    r"""The importance-weighted ELBO (Burda, Grosse, Salakhutdinov 2016), row by row.

    .. math:: \frac{N}{B} \sum_{n=1}^{B} \log \frac{1}{K} \sum_{k=1}^{K} \frac{p(x_n, z_n^k)}{q(z_n^k \mid x_n)}
        \;\le\; \frac{N}{B} \sum_{n=1}^{B} \log p(x_n) \quad \text{in expectation}

    The weights are a row's own, and a plate's N/B multiplies their log-mean. Pyro's ``RenyiELBO`` has N/B inside the
    log-sum-exp, where it raises a weight to the power N/B: that is no bound. Rows are dimension -1 of the data plate,
    and every latent is a row's own. Draws without a reparameterization get the score function's gradient.

    Args:
        num_particles: Draws K a row.
        **options: As for :class:`pyro.infer.Trace_ELBO`; ``vectorize_particles=True`` draws all at once.

    Raises:
        PairError: A site lies outside the plate over rows, or sites are scaled differently.
    """

    def __init__(self, num_particles: int = 5, **options: Any) -> None:
        super().__init__(num_particles=num_particles, **options)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, in nats, without gradients."""
        with torch.no_grad():
            return float(torch_item(self._losses(model, guide, args, kwargs)[0]))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, with the gradient of its estimator."""
        loss, surrogate = self._losses(model, guide, args, kwargs)
        return loss.detach() + (surrogate - surrogate.detach())

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, in nats; its gradients are added to the parameters'."""
        loss, surrogate = self._losses(model, guide, args, kwargs)
        if surrogate.requires_grad:
            surrogate.backward(retain_graph=self.retain_graph)
        value: float = torch_item(loss)
        warn_if_nan(value, "loss")  # type: ignore[call-overload]
        return value

    def _losses(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
        weights, scores = [], []
        scales: list[Any] = []
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            weight: Any = 0.0
            score: Any = 0.0
            for sign, trace in ((1, model_trace), (-1, guide_trace)):
                for name, site in trace.nodes.items():
                    if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample":
                        continue
                    own = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
                    by_row = self._by_row(name, site, own)
                    weight = weight + sign * by_row
                    scales.append(site["scale"])
                    if sign < 0 and not is_identically_zero(site["score_parts"].score_function):
                        score = score + by_row
            weights.append(weight)
            scores.append(score)
        log_weights = weights[0] if self._vectorized else torch.stack(weights)
        bound = torch.logsumexp(log_weights, 0) - math.log(self.num_particles)
        surrogate = bound
        if isinstance(scores[0], Tensor):
            score = (scores[0] if self._vectorized else torch.stack(scores)).sum(0)
            surrogate = bound + score * bound.detach()
        scale = _common(scales)
        return -scale * bound.sum(), -scale * surrogate.sum()

    @property
    def _vectorized(self) -> bool:
        return bool(self.vectorize_particles) and self.num_particles > 1

    def _by_row(self, name: str, site: Any, log_prob: Tensor) -> Tensor:
        """A site's log-density a row, shape (rows,), or (particles, rows) where particles are drawn at once."""
        rows = next((f.size for f in site["cond_indep_stack"] if f.vectorized and f.dim == -1), None)
        if rows is None:
            raise PairError(
                f"the site '{name}' lies outside the plate over rows: an importance-weighted bound on minibatches "
                "needs every site to be a row's own; use Trace_ELBO for latents that rows share"
            )
        whole = torch.broadcast_shapes(log_prob.shape, (rows,))
        log_prob = log_prob.expand(whole)
        if not self._vectorized:
            return log_prob.reshape(-1, rows).sum(0)
        nested = self.max_plate_nesting - 1
        if log_prob.dim() <= nested:
            return log_prob.reshape(1, -1, rows).sum(1).expand(self.num_particles, rows)
        particles = log_prob.shape[-nested - 1]
        return log_prob.reshape(particles, -1, rows).sum(1).expand(self.num_particles, rows)


def _common(scales: list[Any]) -> Any:
    first = scales[0]
    for scale in scales[1:]:
        same = scale is first or (not isinstance(scale, Tensor) and not isinstance(first, Tensor) and scale == first)
        if not same:
            raise PairError("the sites are scaled differently: an importance-weighted bound needs the same for all")
    return first
