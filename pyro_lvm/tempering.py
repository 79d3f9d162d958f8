"""The ELBO with its KL terms weighted: warm-up, beta, free bits."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_lvm.errors import PairError, TrainingError


class TemperedELBO(Trace_ELBO):
    r"""The ELBO with a weight on KL(q || prior), analytic where that is known.

    .. math:: \sum_n E_q[\log p(x_n \mid z_n)] - \beta\, w_t \sum_j \max\bigl(\lambda, \mathrm{KL}_j\bigr), \qquad
        w_t = \min(1, t / T_w)

    KL_j is the mean over the batch's rows of a latent coordinate's divergence, of which ``free_bits`` cost nothing
    (Kingma et al. 2016). With beta = 1, no free bits and the warm-up over it is the ELBO; with beta above 1 a looser
    lower bound on the evidence (Higgins et al. 2017); else it may be no bound. Pairs are graded by their ELBO, whatever
    they were trained by.

    Args:
        beta: Weight of the KL terms at the end.
        warmup_steps: Steps T_w over which the weight rises from 0 to ``beta`` (Bowman et al. 2016).
        free_bits: lambda, nats a latent coordinate and row that cost nothing; a latent with a full covariance counts as
            one coordinate of as many times that.
        num_particles: Draws a row.
        **options: As for :class:`pyro.infer.Trace_ELBO`.

    Raises:
        TrainingError: A number is out of range.
        PairError: A latent is not reparameterized.
    """

    def __init__(
        self,
        beta: float = 1.0,
        warmup_steps: int = 0,
        free_bits: float = 0.0,
        num_particles: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(num_particles=num_particles, **options)
        for name, value in (("beta", beta), ("warmup_steps", warmup_steps), ("free_bits", free_bits)):
            if not 0 <= value < float("inf"):
                raise TrainingError(f"{name}={value}: expected a number from 0 up")
        self.beta = beta
        self.warmup_steps = warmup_steps
        self.free_bits = free_bits
        # A tensor, for a number would be baked into a traced step.
        self.kl_weight = torch.tensor([beta if warmup_steps == 0 else 0.0])

    def options(self) -> dict[str, float]:
        """What makes it differ from another, in plain JSON."""
        return {"beta": self.beta, "warmup_steps": self.warmup_steps, "free_bits": self.free_bits}

    def set_step(self, step: int, device: torch.device) -> None:
        """Set the weight of a step, counted from 0, where it is needed; :func:`pyro_lvm.fit` does it before each."""
        if self.kl_weight.device != device:
            self.kl_weight = self.kl_weight.to(device)
        if self.warmup_steps:
            self.kl_weight.fill_(self.beta * min(1.0, (step + 1) / self.warmup_steps))

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the weighted ELBO, in nats, without gradients."""
        with torch.no_grad():
            return float(torch_item(self.differentiable_loss(model, guide, *args, **kwargs)))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the weighted ELBO, with its gradient."""
        total: Any = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            for name, site in model_trace.nodes.items():
                if site["type"] != "sample" or type(site["fn"]).__name__ == "_Subsample":
                    continue
                if site["is_observed"]:
                    total = total - site["log_prob_sum"]
                else:
                    total = total + self._weighted_kl(name, site, guide_trace.nodes[name])
        loss: Tensor = total / self.num_particles
        return loss

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the weighted ELBO, in nats; its gradients are added to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        value: float = torch_item(loss)
        return value

    def _weighted_kl(self, name: str, prior: Any, posterior: Any) -> Tensor:
        if not posterior["fn"].has_rsample:
            raise PairError(
                f"the latent '{name}' is drawn from {type(posterior['fn']).__name__}, which has no reparameterized "
                "draws: weighting its KL term takes them; use Trace_ELBO, or a continuous latent"
            )
        kl, coordinates = _kl(prior, posterior)
        scale, mask = posterior["scale"], posterior["mask"]
        scale, mask = (t[..., None] if isinstance(t, Tensor) and t.dim() else t for t in (scale, mask))
        by_coordinate = scale_and_mask(kl, scale=scale, mask=mask).flatten(0, -2).sum(0)
        if self.free_bits > 0:
            # What so many rows may use, each as scaled as its divergence.
            allowance = scale_and_mask(torch.ones_like(kl), scale=scale, mask=mask).flatten(0, -2).sum(0)
            by_coordinate = torch.maximum(by_coordinate, self.free_bits * coordinates * allowance)
        weighted: Tensor = self.kl_weight.to(kl)[0] * by_coordinate.sum()
        return weighted


def _kl(prior: Any, posterior: Any) -> tuple[Tensor, int]:
    """Divergences by row and coordinate, shape (..., coordinates), and how many coordinates one of them is of."""
    p, q = _coordinates(prior["fn"]), _coordinates(posterior["fn"])
    if p is None or q is None:
        by_row = posterior["unscaled_log_prob"] - prior["unscaled_log_prob"]
        return by_row[..., None], int(posterior["fn"].event_shape.numel())
    try:
        kl = kl_divergence(q, p)
    except NotImplementedError:
        kl = q.log_prob(posterior["value"]) - p.log_prob(posterior["value"])
    rows = kl.shape[: kl.dim() - posterior["fn"].event_dim]
    return kl.reshape(*rows, -1), 1


def _coordinates(distribution: Any) -> Any:
    """The distribution of each coordinate by itself; None where they depend on each other."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return None if distribution.event_shape else distribution
