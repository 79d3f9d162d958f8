"""Likelihoods of a decoder: what its numbers mean for an entry of a row.

A decoder gives ``planes`` numbers an entry, around zero and about one in size; a likelihood turns them into a
distribution in the data's units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from pyro.distributions import Bernoulli, ContinuousBernoulli, Normal
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_lvm.errors import DataError, PairError
from pyro_lvm.modules import feature_units

# Of a feature's variance: a scale that may go to zero has an infinite likelihood (of constant pixels, to begin with).
_NOISE_FLOOR = 1e-3
# Of the features' mean variance, where one scale is for all: enough to keep it from underflowing.
_COMMON_FLOOR = 1e-6
# The number that softplus makes a one of.
_ONE = math.log(math.e - 1)


class Likelihood(nn.Module):
    """p(x | z), one density an entry.

    Attributes:
        planes: Numbers that the decoder gives an entry.
    """

    planes: ClassVar[int] = 1

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution of rows, batch shape (..., D), from numbers of shape (..., planes * D)."""
        raise NotImplementedError

    def start(self, x: Tensor, *, one_unit: bool) -> None:
        """Take the data's place and units from rows, shape (rows, D), NaN where missing.

        Args:
            x: The rows.
            one_unit: Features have one unit in common, as the pixels of an image; else each has its own.
        """
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Refuse rows outside the support.

        Raises:
            DataError: There are some.
        """


class _Gaussian(Likelihood):
    """A normal whose mean is the decoder's, relative to each feature's mean and unit."""

    origin: Tensor
    unit: Tensor

    def __init__(self, data_dim: int) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(data_dim))

    def start(self, x: Tensor, *, one_unit: bool) -> None:
        origin, unit = feature_units(x)
        self.origin.copy_(origin)
        self.unit.copy_(unit.square().mean().sqrt().expand_as(unit) if one_unit else unit)

    def mean(self, outputs: Tensor) -> Tensor:
        """The mean in the data's units."""
        return self.origin + self.unit * outputs

    @property
    def noise_scale(self) -> Tensor:
        """Standard deviation of all entries, in the data's units."""
        raise NotImplementedError

    def forward(self, outputs: Tensor) -> Normal:
        return Normal(self.mean(outputs), self.noise_scale)


class FixedGaussian(_Gaussian):
    r"""N(f(z), sigma^2), sigma the analyst's hyper-parameter.

    Args:
        data_dim: Number of features D.
        noise_scale: sigma, in the units of the rows.

    Raises:
        PairError: ``noise_scale`` is not positive.
    """

    _noise_scale: Tensor

    def __init__(self, data_dim: int, noise_scale: float) -> None:
        super().__init__(data_dim)
        if isinstance(noise_scale, bool) or not isinstance(noise_scale, (int, float)) or not 0 < noise_scale < math.inf:
            raise PairError(f"noise_scale={noise_scale}: expected a positive number, in the units of the rows")
        self.register_buffer("_noise_scale", torch.tensor(float(noise_scale)))

    @property
    def noise_scale(self) -> Tensor:
        return self._noise_scale


class LearnedGaussian(_Gaussian):
    """N(f(z), sigma^2) with one sigma for all entries, learned: the noise of probabilistic PCA."""

    def __init__(self, data_dim: int) -> None:
        super().__init__(data_dim)
        self.relative_log_scale = nn.Parameter(torch.zeros(()))

    def start(self, x: Tensor, *, one_unit: bool) -> None:
        super().start(x, one_unit=one_unit)
        nn.init.zeros_(self.relative_log_scale)

    @property
    def noise_scale(self) -> Tensor:
        relative_variance = torch.exp(2 * self.relative_log_scale) + _COMMON_FLOOR
        return (self.unit.square().mean() * relative_variance).sqrt()


class DecodedGaussian(_Gaussian):
    """N(f(z), diag s(z)^2): the decoder gives each entry's scale too, no variance below 1/1000 of the feature's."""

    planes: ClassVar[int] = 2

    def forward(self, outputs: Tensor) -> Normal:
        loc, raw = outputs.chunk(2, -1)
        scale = (softplus(raw + _ONE).square() + _NOISE_FLOOR).sqrt()
        return Normal(self.mean(loc), self.unit * scale)


class BernoulliLikelihood(Likelihood):
    """Bernoulli, for rows of zeros and ones; the decoder's numbers are added to the logit of each feature's mean."""

    origin: Tensor
    distribution: ClassVar[Callable[..., TorchDistribution]] = Bernoulli

    def __init__(self, data_dim: int) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(data_dim))

    def start(self, x: Tensor, *, one_unit: bool) -> None:
        seen = ~torch.isnan(x)
        # As if a one and a zero more had been seen, so that a pixel that is never on has a logit.
        share = (x.double().nansum(0) + 1) / (seen.sum(0) + 2)
        self.origin.copy_(share.logit())

    def forward(self, outputs: Tensor) -> TorchDistribution:
        return self.distribution(logits=self.origin + outputs)

    def check(self, x: Tensor) -> None:
        refused = x[(x != 0) & (x != 1) & ~torch.isnan(x)]
        if refused.numel() == 0:
            return
        if bool(((refused >= 0) & (refused <= 1)).all()):
            raise DataError(
                f"the data has {refused.numel()} grey values such as {float(refused[0]):.3g}, but the likelihood "
                "bernoulli takes 0 and 1: binarize them once (static) or anew in each batch (dynamic), or choose the "
                "likelihood continuous-bernoulli or gaussian, which take them as they are"
            )
        _refuse_outside_unit(refused, "bernoulli")


class ContinuousBernoulliLikelihood(BernoulliLikelihood):
    """The continuous Bernoulli on [0, 1] (Loaiza-Ganem and Cunningham 2019), for grey values as they are."""

    distribution: ClassVar[Callable[..., TorchDistribution]] = ContinuousBernoulli

    def check(self, x: Tensor) -> None:
        refused = x[(x < 0) | (x > 1)]
        if refused.numel() > 0:
            _refuse_outside_unit(refused, "continuous-bernoulli")


def _refuse_outside_unit(refused: Tensor, name: str) -> None:
    worst = refused[(refused - 0.5).abs().argmax()]
    raise DataError(
        f"the data has values outside 0 to 1 such as {float(worst):.4g}, which the likelihood {name} doesn't take: "
        "scale the data to the unit interval, or choose the likelihood gaussian"
    )


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": LearnedGaussian,
    "gaussian-fixed": FixedGaussian,
    "gaussian-decoded": DecodedGaussian,
    "bernoulli": BernoulliLikelihood,
    "continuous-bernoulli": ContinuousBernoulliLikelihood,
}
"""Likelihoods by name."""


def make_likelihood(name: str, data_dim: int, noise_scale: float | None = None) -> Likelihood:
    """A likelihood by its name.

    Args:
        name: One of :data:`LIKELIHOODS`.
        data_dim: Number of features D.
        noise_scale: Of ``gaussian-fixed``, which needs it and alone has it.

    Raises:
        PairError: An unknown name, or a noise scale that is missing or has no place.
    """
    if name not in LIKELIHOODS:
        raise PairError(f"likelihood={name!r}: expected one of {', '.join(LIKELIHOODS)}")
    if name == "gaussian-fixed":
        if noise_scale is None:
            raise PairError(
                "likelihood='gaussian-fixed' needs noise_scale, in the units of the rows: give one, as in "
                "noise_scale=0.1, or have it learned by likelihood='gaussian'"
            )
        return FixedGaussian(data_dim, noise_scale)
    if noise_scale is not None:
        raise PairError(
            f"noise_scale={noise_scale} with likelihood='{name}', which has none to set: choose "
            "likelihood='gaussian-fixed', or leave noise_scale out"
        )
    maker: type[_Gaussian] | type[BernoulliLikelihood] = LIKELIHOODS[name]  # type: ignore[assignment]
    return maker(data_dim)
