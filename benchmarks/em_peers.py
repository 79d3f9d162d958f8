"""Fits with missing entries, to convergence, against the packages that can be installed: 10000 x 200, 30% missing.

    pip install --no-deps ppca pyppca bayespy truncnorm h5py
    python benchmarks/em_peers.py [--rows 10000] [--features 200] [--latent 10] [--missing 0.3] [--repeats 3]

Each stops by its own default rule. The gap is in nats a row below our maximum, of a PPCA with the peer's parameters;
for the peers that return orthonormal axes and no scales, with those that fit the observed entries best (EM of the
scales and the noise, the axes held), which only flatters them. The error is that of the imputed entries, whose truth
is known. The last columns are the seconds after which ours is as likely as the peer ends up, and the peer's over those.
"""

import argparse
import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from em_timing import alternate, machine

from pyro_lvm.em import PPCA
from pyro_lvm.linear_gaussian import log_evidence

Fitted = tuple[np.ndarray, np.ndarray, float | None, np.ndarray]  # loadings, mean, noise variance, imputations


def ours(x: np.ndarray, latent_dim: int) -> Fitted:
    model = PPCA(latent_dim, random_state=0).fit(x)
    return model.loadings_, model.mean_, model.noise_variance_, model.impute(x)


def pca_magic(x: np.ndarray, latent_dim: int) -> Fitted:
    from ppca import PPCA as Peer  # the package of pca-magic

    np.random.seed(0)  # noqa: NPY002, the peer draws from the global state
    peer = Peer()
    peer.fit(x.copy(), d=latent_dim)
    return peer.stds[:, None] * peer.C, peer.means, None, peer.data * peer.stds + peer.means


def pyppca(x: np.ndarray, latent_dim: int) -> Fitted:
    from pyppca import ppca

    np.random.seed(0)  # noqa: NPY002, the peer draws from the global state
    axes, _, mean, _, filled = ppca(x.copy(), latent_dim, False)
    return axes, mean, None, filled


def bayespy(x: np.ndarray, latent_dim: int) -> Fitted:
    from bayespy.inference import VB
    from bayespy.nodes import Gamma, GaussianARD, SumMultiply

    np.random.seed(0)  # noqa: NPY002, the peer draws from the global state
    mean = np.nanmean(x, 0)
    latents = GaussianARD(0, 1, shape=(latent_dim,), plates=(1, len(x)))
    relevance = Gamma(1e-5, 1e-5, plates=(latent_dim,))
    loadings = GaussianARD(0, relevance, shape=(latent_dim,), plates=(x.shape[1], 1))
    product = SumMultiply("d,d->", loadings, latents)
    precision = Gamma(1e-5, 1e-5)
    data = GaussianARD(product, precision)
    observed = ~np.isnan(x.T)
    data.observe(np.where(observed, x.T - mean[:, None], 0.0), mask=observed)
    loadings.initialize_from_random()
    inference = VB(data, latents, loadings, relevance, precision)
    with contextlib.redirect_stdout(io.StringIO()):
        inference.update(repeat=200, tol=1e-5)
    w = loadings.get_moments()[0][:, 0]
    filled = np.where(observed, x.T, w @ latents.get_moments()[0][0].T + mean[:, None]).T
    return w, mean, float(1 / precision.get_moments()[0]), filled


def best_within(x: np.ndarray, axes: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, float]:
    """The likeliest loadings within the span of the axes, and noise, given the mean: EM of W = axes R."""
    axes = np.linalg.qr(axes)[0]
    seen = ~np.isnan(x)
    residual = np.where(seen, x - mean, 0.0)
    inner, noise = np.eye(axes.shape[1]) * np.nanvar(x) ** 0.5, float(np.nanvar(x)) / 2
    # Of each row's observed entries, (rows, d, d), so that a step needs no pass over the entries.
    gram = np.einsum("nj,ja,jb->nab", seen, axes, axes, optimize=True)
    projected = residual @ axes
    total = float(np.square(residual).sum())
    for _ in range(300):
        precision = np.eye(len(inner)) + inner.T @ gram @ inner / noise
        covariance = np.linalg.inv(precision)
        loc = np.einsum("nab,cb,nc->na", covariance, inner, projected / noise, optimize=True)
        second = covariance + loc[:, :, None] * loc[:, None, :]
        # Normal equations of R: sum_n G_n R S_n = sum_n p_n m_n^T.
        operator = np.einsum("nab,ncd->adbc", gram, second, optimize=True)
        size = len(inner) ** 2
        target = np.einsum("na,nd->ad", projected, loc)
        inner = np.linalg.solve(operator.reshape(size, size), target.reshape(size)).reshape(inner.shape)
        fitted = np.einsum("nab,bc,ncd,ad->", gram, inner, second, inner, optimize=True)
        noise = float(total - 2 * (inner * target).sum() + fitted) / seen.sum()
    return axes @ inner, noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--missing", type=float, default=0.3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(options.rows, options.latent)) @ rng.normal(size=(options.latent, options.features))
    truth += rng.normal(size=truth.shape)
    holes = rng.random(truth.shape) < options.missing
    x = np.where(holes, np.nan, truth)

    results: dict[str, Fitted] = {}
    peers: dict[str, Callable[[np.ndarray, int], Fitted]] = {"pyro_lvm PPCA": ours}
    for name, peer in {"pca-magic": pca_magic, "pyppca": pyppca, "bayespy": bayespy}.items():
        try:
            peer(x[:100, :20].copy(), 2)
            peers[name] = peer
        except ImportError as error:
            print(f"{name} is left out: {error}")

    def run(name: str) -> None:
        results[name] = peers[name](x, options.latent)

    seconds = alternate({name: lambda name=name: run(name) for name in peers}, options.repeats)
    print(machine())
    print(f"{options.rows} x {options.features}, {options.missing:.0%} missing, d = {options.latent}")
    print(f"{'':16s} {'seconds':>9s} {'ratio':>7s} {'gap':>9s} {'rms error':>10s} {'ours to there':>14s} {'ratio':>7s}")
    best = float(log_evidence(torch.from_numpy(x), *_tensors(results["pyro_lvm PPCA"])).mean())
    path = PPCA(options.latent, random_state=0).fit(x).log_likelihood_path_
    for name, (loadings, mean, noise, filled) in results.items():
        if noise is None:
            loadings, noise = best_within(x, loadings, mean)
        gap = best - float(log_evidence(torch.from_numpy(x), *_tensors((loadings, mean, noise, filled))).mean())
        error = np.sqrt(np.square(filled - truth)[holes].mean())
        ratio = seconds[name] / seconds["pyro_lvm PPCA"]
        line = f"{name:16s} {seconds[name]:9.2f} {ratio:7.1f} {gap:9.1e} {error:10.4f}"
        if name != "pyro_lvm PPCA":
            steps = max(1, int((path >= best - gap).argmax()))
            early = PPCA(options.latent, max_iter=steps, random_state=0)
            reached = alternate({"ours": lambda early=early: early.fit(x)}, options.repeats)["ours"]
            line += f" {reached:14.2f} {seconds[name] / reached:7.1f}"
        print(line)


def _tensors(fitted: Fitted) -> tuple[torch.Tensor, ...]:
    loadings, mean, noise, _ = fitted
    return tuple(torch.as_tensor(np.asarray(value)).double() for value in (loadings, mean, noise))


if __name__ == "__main__":
    main()
