"""A guide for mixtures: which component, and for each a product of experts over its latents."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.ops.indexing import Vindex
from torch import Tensor, nn
from torch.distributions import Categorical, MultivariateNormal

from pyro_lvm.errors import PairError
from pyro_lvm.gaussian_product import gaussian_product
from pyro_lvm.mixture_posterior import MixturePosterior
from pyro_lvm.modules import PairModule
from pyro_lvm.plate import data_plate, observed_entries

Estimator = Literal["enumerate", "score", "baseline"]
# Draws a row and step where the component is drawn. One that is seldom drawn moves its parameters by rare, large
# gradients, which Adam, dividing by their size, counts for less than the many small ones against them; with one draw
# that kept q(t | x) off the posterior in rounds of any length.
_DRAWS = 4

Assignment = Literal["quadratic", "network"]
_HIDDEN = 64
# Of the network's start: steps, rows a step, Adam's rate.
_NETWORK_STEPS, _NETWORK_ROWS, _NETWORK_RATE = 1000, 256, 1e-2


class MixtureOfExperts(PairModule):
    r"""A categorical over components and, given the component, a product of one Gaussian message a feature.

    .. math:: q(t_n = k, z_n \mid x_n) \propto e^{a_k} N(z_n; 0, I)
        \prod_{j\ \text{observed}} N(x_{nj};\, u_{kj}^\top z_n + b_{kj},\, e^{-l_{kj}})

    which is what a mixture of factor analysers of the guide's own would conclude: q(t | x) is a softmax of quadratic
    forms, q(z | x, t) as in :class:`pyro_lvm.guides.ProductOfExperts`, for each component, with its gains equal to its
    precisions. It contains the exact posterior of a mixture of probabilistic PCAs for every pattern of missing entries.
    With ``assignment="network"`` a small network gives q(t | x) instead.

    No parameter but a belongs to q(t | x) alone. Where nearly every row is sure of its component, q(t | x) has no
    gradient left, and what only it holds no longer follows the model; what it shares with q(z | x, t) does.

    Args:
        data_dim: Number of features D.
        latent_dim: Number of latent coordinates d of each component.
        num_components: Number of components K.
        estimator: Where the gradient for q(t | x) comes from: ``"enumerate"`` sums over components; ``"score"`` draws
            them, four a row and step, and uses the score function; ``"baseline"`` subtracts from that the guide's own
            estimate of log p(x).
        assignment: The form of q(t | x), ``"quadratic"`` or ``"network"``.

    Raises:
        PairError: An option is out of range.

    Sources: Tipping & Bishop 1999b, "Mixtures of probabilistic principal component analyzers", for the exact form; Mnih
    & Gregor 2014, "Neural variational inference and learning in belief networks", for a baseline that depends on x.
    """

    origin: Tensor
    unit: Tensor
    accepts_missing = True

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 2,
        num_components: int = 5,
        estimator: Estimator = "enumerate",
        assignment: Assignment = "quadratic",
    ) -> None:
        super().__init__()
        for name, given, choices in (
            ("estimator", estimator, get_args(Estimator)),
            ("assignment", assignment, get_args(Assignment)),
        ):
            if given not in choices:
                raise PairError(f"{name}={given!r}: expected one of {', '.join(choices)}")
        for name, count in (("latent_dim", latent_dim), ("num_components", num_components)):
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise PairError(f"{name}={count}: expected a whole number from 1 up")
        self.estimator = estimator
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))
        self.directions = nn.Parameter(0.1 * torch.randn(num_components, data_dim, latent_dim))
        self.log_precisions = nn.Parameter(torch.zeros(num_components, data_dim))
        self.centres = nn.Parameter(torch.randn(num_components, data_dim))
        self.network: nn.Module | None = None
        if assignment == "network":
            # Which entries are there tells a hole from the mean.
            self.network = nn.Sequential(
                nn.Linear(2 * data_dim, _HIDDEN), nn.Tanh(), nn.Linear(_HIDDEN, num_components + 1)
            )
        else:
            self.log_weights = nn.Parameter(torch.zeros(num_components))
        if estimator == "baseline":
            self.baseline_gain = nn.Parameter(torch.ones(()))
            self.baseline_shift = nn.Parameter(torch.zeros(()))

    @property
    def elbo(self) -> ELBO | type[ELBO]:
        """The ELBO that this guide's gradient estimator is in Pyro."""
        if self.estimator == "enumerate":
            return TraceEnum_ELBO
        drawing = Trace_ELBO if self.estimator == "score" else TraceGraph_ELBO
        return drawing(num_particles=_DRAWS, vectorize_particles=True, max_plate_nesting=1)

    def forward(self, x: Tensor) -> None:
        """The joint posterior of component and latents of a batch of rows, shape (rows, D), NaN where missing."""
        logits, loc, scale_tril, evidence = self._infer(x)
        infer: Any = {}
        baseline: dict[str, Tensor] = {}
        if self.estimator == "enumerate":
            infer["enumerate"] = "parallel"
        elif self.estimator == "baseline":
            infer["baseline"] = baseline
        with data_plate(x):
            t = pyro.sample("t", pyro.distributions.Categorical(logits=logits), infer=infer)
            if self.estimator == "baseline":
                # What it is taken from is the ELBO times the plate's scale, under `fit` 1 / B; of its shape, which the
                # number of draws decides.
                value = (self.baseline_gain * evidence.detach() + self.baseline_shift) / len(x)
                baseline["baseline_value"] = value.expand(t.shape)
            row = torch.arange(len(x), device=x.device)
            chosen = Vindex(loc)[row, t], Vindex(scale_tril.expand(len(x), -1, -1, -1))[row, t]
            pyro.sample("z", pyro.distributions.MultivariateNormal(chosen[0], scale_tril=chosen[1]))

    def encode(self, x: Tensor) -> MixturePosterior:
        """q(t, z | x) of rows of shape (rows, D), NaN where missing."""
        logits, loc, scale_tril, _ = self._infer(x)
        latents = [
            MultivariateNormal(own, scale_tril=factor)
            for own, factor in zip(loc.unbind(1), scale_tril.unbind(1), strict=True)
        ]
        return MixturePosterior(Categorical(logits=logits), latents)

    def _infer(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (rows, K), means (rows, K, d), factors (rows or 1, K, d, d), log p(x) as far as the guide knows."""
        observed = observed_entries(x)
        relative = (x - self.origin) / self.unit
        residual = relative.unsqueeze(1) - self.centres
        if observed is not None:
            residual = torch.where(observed.unsqueeze(1), residual, 0.0)
        precisions = self.log_precisions.exp()
        product = gaussian_product(self.directions, self.log_precisions, precisions * residual, observed)
        there = torch.ones_like(relative) if observed is None else observed.to(relative)
        if self.network is not None:
            filled = relative if observed is None else torch.where(observed, relative, 0.0)
            output = self.network(torch.cat([filled, there], dim=-1))
            return output[:, :-1], product.loc, product.scale_tril, output[:, -1]
        misfit = torch.einsum("bkj,kj->bk", residual.square(), precisions)
        logits = self.log_weights + product.log_normalizer + 0.5 * (there @ self.log_precisions.T - misfit)
        log_units = self.unit.log() + 0.5 * math.log(2 * math.pi)
        return logits, product.loc, product.scale_tril, logits.logsumexp(-1) - there @ log_units

    def match(self, model: Any) -> None:
        """Become the exact posterior of a mixture of linear-Gaussian components as it is now.

        A network's q(t | x) stays as it is: it learns a model's in :meth:`start`.

        Args:
            model: With ``weights`` (K,), ``means`` (K, D), ``loadings`` (K, D, d) and ``noise_variance`` (K,).

        Raises:
            PairError: It lacks one of these, or they have other shapes.
        """
        needed = ("weights", "means", "loadings", "noise_variance")
        if not all(isinstance(getattr(model, name, None), Tensor) for name in needed):
            raise PairError(f"{type(model).__name__} has no {', '.join(needed)}: expected a mixture of PPCAs")
        weights, means, loadings, noise = (getattr(model, name).detach().double() for name in needed)
        if loadings.shape != self.directions.shape:
            raise PairError(
                f"the model's loadings have shape {tuple(loadings.shape)}, the guide's {tuple(self.directions.shape)}: "
                "build both with the same data_dim, latent_dim and num_components"
            )
        implied = (loadings.square().sum(2) + noise[:, None] + (means - weights @ means).square()).mean(0).sqrt()
        origin = getattr(model, "origin", weights @ means).double()
        unit = getattr(model, "unit", implied).double()
        with torch.no_grad():
            self.origin.copy_(origin)
            self.unit.copy_(unit)
            self.directions.copy_(loadings / unit.unsqueeze(1))
            self.log_precisions.copy_((unit.square() / noise.unsqueeze(1)).log())
            self.centres.copy_((means - origin) / unit)
            if self.network is None:
                self.log_weights.copy_(weights.log())
        self.started.fill_(True)

    def start(self, x: Tensor, model: Any, generator: torch.Generator | None = None) -> None:
        """Start as the exact posterior of the model's start, without which components lose their rows.

        Args:
            x: Rows, shape (rows, D), NaN where missing.
            model: The model, already started.
            generator: Source of the batches that a network is started with.

        Raises:
            PairError: The model is no mixture of linear-Gaussian components of these sizes.
        """
        self.match(model)
        if self.network is not None:
            self._start_network(x, model, generator)

    def _start_network(self, x: Tensor, model: Any, generator: torch.Generator | None) -> None:
        """Teach the network the model's own responsibilities and evidence."""
        with torch.no_grad():
            responsibilities = model.exact_posterior(x).responsibilities.to(self.directions)
            evidence = model.log_evidence(x).to(self.directions)
        parameters = list(self.network.parameters()) if self.network is not None else []
        optimizer = torch.optim.Adam(parameters, lr=_NETWORK_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _NETWORK_STEPS)
        for _ in range(_NETWORK_STEPS):
            rows = torch.randint(len(x), (min(len(x), _NETWORK_ROWS),), generator=generator)
            logits, _, _, guess = self._infer(x[rows])
            loss = nn.functional.cross_entropy(logits, responsibilities[rows])
            loss = loss + nn.functional.mse_loss(guess, evidence[rows]) / evidence.var().clamp(min=1.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        for parameter in self.parameters():
            parameter.grad = None
