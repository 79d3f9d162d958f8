"""Where EM begins."""

import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from pyro_lvm.em.parameters import NoiseModel, Parameters
from pyro_lvm.em.rows import Rows

# Rows that show where to begin: all of a small table, of wide rows fewer.
_SAMPLE, _ENTRIES = 10_000, 2**21
# Steps of EM that tell which clusters are hopeless: of twenty k-means starts on digits the best leads or nearly so.
CLUSTERS_SHOW = 5
# Share of the variance that noise gets at least: what starts without noise moves away slowly.
_LEAST_NOISE = 0.05
_POWER_ITERATIONS = 2


def start_rows(x: Tensor, at_least: int, generator: torch.Generator | None) -> Tensor:
    """Some rows, at random, that show where to begin, shape (num_rows, data_dim): each feature is observed in one.

    Args:
        x: rows, shape (rows, data_dim), NaN where missing; in each something is observed, and each feature in one.
        at_least: how many are needed, where there are as many, up to 10,000.
        generator: source of the choice.
    """
    order = torch.randperm(len(x), generator=generator)
    chosen, left = order.tensor_split([min(_SAMPLE, max(_ENTRIES // x.shape[1], at_least))])
    sample = x[chosen]
    unseen = sample.isnan().all(0)
    if bool(unseen.any()):
        # The first row with each.
        more = left[(~x[left][:, unseen].isnan()).byte().argmax(0)].unique()
        sample = torch.cat([sample, x[more]])
    return sample


def principal_start(rows: Rows, latent_dim: int, noise: NoiseModel, random_state: np.random.RandomState) -> Parameters:
    """Start one component near the principal axes, found by a few sweeps of orthogonal iteration from random ones.

    Missing entries count as their feature's mean; the sums are scaled up for what that hides.

    Args:
        rows: standardised, so that features have mean 0.
        latent_dim: d.
        noise: the noise variances that are allowed.
        random_state: draws the first axes.

    Source: Halko, Martinsson & Tropp 2011, "Finding structure with randomness", SIAM Review 53, algorithm 4.4.
    """
    device = noise.floor.device
    axes = torch.from_numpy(random_state.normal(size=(rows.data_dim, latent_dim))).to(device)
    for _ in range(_POWER_ITERATIONS):
        axes = torch.linalg.qr(_second_moments(rows, axes)[0])[0]
    images, variances = _second_moments(rows, axes)
    values, vectors = torch.linalg.eigh(_symmetrised(axes.mT @ images))
    rest = (variances.sum() - values.sum()) / max(1, rows.data_dim - latent_dim)
    isotropic = rest.clamp(min=_LEAST_NOISE * variances.mean())
    loadings = (axes @ vectors) * (values - isotropic).clamp(min=_LEAST_NOISE * isotropic).sqrt()
    if noise.isotropic:
        noise_variance = isotropic.expand(rows.data_dim)
    else:
        noise_variance = torch.maximum(variances - loadings.square().sum(1), 0.1 * variances)
    return _one_component(loadings, noise_variance, noise)


def random_start(rows: Rows, latent_dim: int, noise: NoiseModel, random_state: np.random.RandomState) -> Parameters:
    """Start one component with random loadings that explain half of the variance.

    Args:
        rows: standardised to variance 1.
        latent_dim: d.
        noise: the noise variances that are allowed.
        random_state: draws the loadings.
    """
    loadings = random_state.normal(size=(rows.data_dim, latent_dim)) / np.sqrt(2 * latent_dim)
    return _one_component(torch.from_numpy(loadings).to(noise.floor.device), torch.full_like(noise.floor, 0.5), noise)


def clustered_start(
    sample: Tensor, num_components: int, latent_dim: int, noise: NoiseModel, random_state: np.random.RandomState
) -> Parameters:
    """Start a mixture from k-means and a local PCA of each cluster.

    Args:
        sample: standardised rows, (num_rows, data_dim), NaN where missing, which counts as the feature's mean; at least
            ``num_components`` rows.
        num_components: K.
        latent_dim: d.
        noise: the noise variances that are allowed.
        random_state: draws the centres, by k-means++.

    Source: Tipping & Bishop 1999b; Arthur & Vassilvitskii 2007, "k-means++".
    """
    filled = sample.nan_to_num(0.0)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: EM itself says which components that leaves over.
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = KMeans(num_components, n_init=1, random_state=random_state).fit(filled.cpu().numpy())
    labels = torch.from_numpy(kmeans.labels_).to(filled.device).long()
    weights, means, loadings, variances = [], [], [], []
    overall = filled.var(0, unbiased=False).mean()
    for k in range(num_components):
        # An empty cluster starts as a copy of the whole.
        cluster = filled[labels == k] if bool((labels == k).any()) else filled
        weights.append(len(cluster))
        means.append(cluster.mean(0))
        own, variance = _local_pca(cluster - means[-1], latent_dim, overall)
        jitter = torch.from_numpy(random_state.normal(size=own.shape)).to(own)
        # A loading of exactly 0 would stay there.
        loadings.append(own + 0.1 * (variance / len(own)).sqrt() * jitter)
        variances.append(variance.expand(len(own)))
    shares = torch.tensor(weights, dtype=torch.float64, device=filled.device)
    noise_variance = noise.clamped(torch.stack(variances))
    return Parameters(shares / shares.sum(), torch.stack(means), torch.stack(loadings), noise_variance)


def _local_pca(centred: Tensor, latent_dim: int, overall: Tensor) -> tuple[Tensor, Tensor]:
    """Loadings, with columns of 0 where a cluster has too few rows for more, and the noise variance."""
    data_dim = centred.shape[1]
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    values = singular.square() / len(centred)
    kept = min(latent_dim, len(values))
    rest = values[kept:].sum() / max(1, data_dim - latent_dim)
    variance = torch.maximum(rest, _LEAST_NOISE * torch.maximum(values.sum() / data_dim, _LEAST_NOISE * overall))
    loadings = centred.new_zeros(data_dim, latent_dim)
    loadings[:, :kept] = axes[:kept].mT * (values[:kept] - variance).clamp(min=0).sqrt()
    return loadings, variance


def _second_moments(rows: Rows, axes: Tensor) -> tuple[Tensor, Tensor]:
    """S axes and the diagonal of S, S the second moments."""
    images, squares = torch.zeros_like(axes), torch.zeros_like(axes[:, 0])
    counts, num_rows = torch.zeros_like(squares), 0
    for block in rows.blocks():
        images += block.x.mT @ (block.x @ axes)
        squares += block.x.square().sum(0)
        num_rows += len(block.x)
        if block.masks is None or block.pattern is None:
            counts += len(block.x)
        else:
            counts += block.pattern.bincount(minlength=len(block.masks)).to(axes) @ block.masks.to(axes)
    # A product of two entries is seen as often as both of them are.
    seen = counts.sum() / (num_rows * rows.data_dim)
    return images / (counts * seen).unsqueeze(1), squares / counts


def _symmetrised(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


def _one_component(loadings: Tensor, noise_variance: Tensor, noise: NoiseModel) -> Parameters:
    return Parameters(
        loadings.new_ones(1),
        loadings.new_zeros(1, len(loadings)),
        loadings.unsqueeze(0),
        noise.clamped(noise_variance.unsqueeze(0)),
    )
