"""Probabilistic PCA of handwritten digits, from the data to a graded posterior, in one file of plain Pyro.

    python examples/ppca_digits.py [--steps 3000]

A handwritten digit of 8 x 8 pixels is 64 numbers, but nobody writes with 64 degrees of freedom: slant, width, roundness
and a few more explain most of it. We never see those few numbers; they are *latent*. This file writes down how they
might have produced the pixels, learns that story from 1797 digits, and learns at the same time to read the latent
numbers off an image. The story is simple enough to be solved exactly, so at the end what was learned is graded against
the right answer.

All results are in nats a row: natural logarithms of a density, averaged over the digits. Higher is better.
"""

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from sklearn.datasets import load_digits
from torch.distributions import constraints, kl_divergence

# The data: a row is an image, a column a pixel, its grey value from 0 to 1.

digits = torch.tensor(load_digits().data / 16, dtype=torch.float32)
N, D = digits.shape  # 1797 rows, 64 pixels
d = 8  # latent numbers a row
center = digits.mean(0)
spread = (digits - center).square().mean().sqrt()


# The model tells how a row came to be:
#
#     z ~ N(0, I)                       d numbers that nobody sees, drawn for each row
#     x | z ~ N(W z + mu, sigma^2 I)    D pixels: a mean image mu, d images (the columns of W) mixed by z, and noise
#
# In Pyro a model is a function that plays this through. `pyro.sample` names a random quantity; with `obs` its value is
# data instead of a draw. `to_event(1)` says that the numbers along the last dimension belong together: one z, one x.
# `pyro.param` names something to be learned, with a function that gives its start. `pyro.plate` says that what happens
# inside happens for each row, independently of the others. It is told that there are N rows in all and that `x` is some
# of them: 256 rows count 1797/256 times, so that a random batch stands for all the data.


def model(x):
    W = pyro.param("W", lambda: 0.1 * torch.randn(D, d))
    # A copy, because Pyro trains the very tensor it is given, and the guide wants `center` to stay where it is.
    mu = pyro.param("mu", lambda: center.clone())
    sigma = pyro.param("sigma", lambda: spread, constraint=constraints.positive)
    with pyro.plate("data", size=N, subsample=x):
        z = pyro.sample("z", dist.Normal(torch.zeros(d), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.T + mu, sigma).to_event(1), obs=x)


# The guide goes the other way: given a row, which z may have produced it? Bayes' rule has the answer, the posterior
# p(z | x). For most models nobody can compute it, so the guide is a guess at it, with parameters of its own to make the
# guess better:
#
#     q(z | x) = N(A (x - c) + b, L L^T)
#
# It is *amortized*: it doesn't keep a z for each row but a formula from row to z, which also reads rows that it has
# never seen. It names the same latent `z` as the model, in the same plate; that is how Pyro puts the two together.


def guide(x):
    with pyro.plate("data", size=N, subsample=x):
        pyro.sample("z", encode(x))


def encode(x):
    A = pyro.param("A", lambda: torch.zeros(d, D))
    b = pyro.param("b", lambda: torch.zeros(d))
    # A lower triangular matrix with a positive diagonal: L L^T is then a covariance, whatever the optimizer does.
    L = pyro.param("L", lambda: torch.eye(d), constraint=constraints.lower_cholesky)
    return dist.MultivariateNormal((x - center) @ A.T + b, scale_tril=L)


# Training. How well the model explains a row is its log-evidence, log p(x): the log of the density of x under the whole
# story, over every z that could be behind it. It is what we would like to maximise, and for most models nobody can
# compute that either. But for any guide
#
#     ELBO = E_q[log p(x, z) - log q(z | x)] = log p(x) - KL(q(z | x) || p(z | x))
#
# The first form only asks for draws z ~ q and the densities that model and guide have just written down. The second
# form tells what it is worth: a lower bound on the log-evidence ("evidence lower bound"), too low by exactly the
# guide's error, the Kullback-Leibler divergence. So one number trains both: pushing it up makes the model explain the
# data and the guide tell the truth about the model.
#
# `SVI` (stochastic variational inference) does this step by step: take a batch, draw one z a row from the guide, and
# follow the gradient of the resulting estimate. That gradient is noisy, from the batch and from the draws, and three
# measures take the noise out. Batches come from shuffled passes over the data, so that no row waits while another comes
# twice: with batches drawn anew at every step the model ends over ten times as far from the best one. The learning rate
# falls a thousandfold over the training. And what is kept is not the last step's parameters but an average over steps,
# weighted towards the last.


def train(steps, batch_size=256):
    optim = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.03}, "gamma": 0.001 ** (1 / steps)}
    )
    svi = SVI(model, guide, optim, loss=Trace_ELBO())
    batches, average, curve = [], {}, []
    for t in range(1, steps + 1):
        # One shuffled pass, cut into batches of equal size; the few rows left over are others in every pass.
        batches = batches or list(torch.randperm(N)[: N - N % batch_size].split(batch_size))
        svi.step(digits[batches.pop()])
        optim.step()  # not of the parameters, which the line above has moved, but of the learning rate
        with torch.no_grad():
            # The numbers that the optimizer moves: for sigma its logarithm, which may be anything.
            for name, value in pyro.get_param_store().named_parameters():
                average.setdefault(name, value.clone()).lerp_(value, 9 / (t + 8))
        if t % max(1, steps // 30) == 0:
            curve.append((t, estimate_elbo(draws=32)[0]))
    with torch.no_grad():
        for name, value in pyro.get_param_store().named_parameters():
            value.copy_(average[name])
    return curve


@torch.no_grad()
def estimate_elbo(draws):
    """The ELBO of all rows as Pyro estimates it by drawing z, and the estimate's standard error."""
    # The loss that Pyro minimises is minus the ELBO, summed over rows.
    elbos = torch.tensor([-Trace_ELBO().loss(model, guide, digits) / N for _ in range(draws)])
    return elbos.mean().item(), elbos.std().item() / draws**0.5


# The truth. Probabilistic PCA is one of the few models where all that nobody can compute elsewhere can be computed, and
# that is why we start with it: here we can see whether the method works. In double precision, to be more exact than
# what is graded.
#
# Mix z out of the story and x is Gaussian, with mean mu and covariance W W^T + sigma^2 I: that is the log-evidence.
# Bayes' rule gives a Gaussian too: p(z | x) = N(M^-1 W^T (x - mu), sigma^2 M^-1), where M = W^T W + sigma^2 I.
# And the best parameters there are come from the eigenvectors of the data's covariance (Tipping and Bishop 1999): the d
# directions in which the data vary most become loadings, and what they vary in the others, on average, is noise.


def log_evidence(x, W, mu, sigma):
    covariance = W @ W.T + sigma**2 * torch.eye(D, dtype=W.dtype)
    return dist.MultivariateNormal(mu, covariance).log_prob(x)


def exact_posterior(x, W, mu, sigma):
    M = W.T @ W + sigma**2 * torch.eye(d, dtype=W.dtype)
    return dist.MultivariateNormal((x - mu) @ W @ M.inverse(), sigma**2 * M.inverse())


def maximum_likelihood(x):
    mu = x.mean(0)
    eigenvalues, eigenvectors = torch.linalg.eigh((x - mu).T @ (x - mu) / len(x))  # smallest first
    sigma = eigenvalues[:-d].mean().sqrt()
    W = eigenvectors[:, -d:] * (eigenvalues[-d:] - sigma**2).sqrt()
    return W, mu, sigma


# The grade. Two questions, two numbers, both zero at best: how far is the model from the best model (the gap), and how
# far is the guide from the exact posterior of the model that it was trained with (the KL)? And one check of everything
# at once: the ELBO that Pyro estimates by drawing must be the log-evidence minus the KL, which come from formulas and
# draw nothing.


@torch.no_grad()
def grade():
    x = digits.double()
    best = maximum_likelihood(x)
    trained = [pyro.param(name).double() for name in ("W", "mu", "sigma")]
    q = encode(digits)
    q = dist.MultivariateNormal(q.loc.double(), scale_tril=q.scale_tril.double())
    result = {
        "optimum": log_evidence(x, *best).mean().item(),
        "log_evidence": log_evidence(x, *trained).mean().item(),
        "kl": kl_divergence(q, exact_posterior(x, *trained)).mean().item(),
    }
    result["elbo"], result["error"] = estimate_elbo(draws=64)
    return result


def print_table(result):
    gap = result["optimum"] - result["log_evidence"]
    identity = result["log_evidence"] - result["kl"]
    print(f"{'nats a row':>62}")
    print(f"log-evidence of the best model, closed form      {result['optimum']:13.6f}")
    print(f"log-evidence of the trained model                {result['log_evidence']:13.6f}")
    print(f"gap: best - trained                              {gap:13.6f}")
    print(f"KL(guide || exact posterior)                     {result['kl']:13.6f}")
    print(f"ELBO by the algebra: log-evidence - KL           {identity:13.6f}")
    print(f"ELBO by Pyro's draws                             {result['elbo']:13.6f} +- {result['error']:.6f}")


# The picture: how the ELBO came up to the optimum, and what eight numbers keep of an image. A reconstruction is an
# image squeezed through the story and back: the guide reads z off it, and the model says what image that z stands for.


@torch.no_grad()
def draw(curve, result, path):
    figure = plt.figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25])

    ax = left.subplots()
    steps, elbos = zip(*curve, strict=True)
    ax.plot(steps, [result["optimum"] - elbo for elbo in elbos], marker=".", label="in training")
    averaged = result["optimum"] - result["log_evidence"] + result["kl"]
    ax.plot(steps[-1], averaged, "*", color="black", markersize=12, label=f"averaged parameters: {averaged:.1g}")
    ax.set_yscale("log")
    ax.set(xlabel="steps", ylabel="optimum - ELBO (nats a row)")
    ax.set_title(f"How far the ELBO is below the optimum, {result['optimum']:.3f}")
    ax.grid(axis="y", color="0.9")
    ax.legend()

    originals = digits[:10]  # the data begin with 0, 1, ..., 9
    rebuilt = encode(originals).loc @ pyro.param("W").T + pyro.param("mu")
    right.suptitle(f"Images, and what {d} latent numbers keep of them")
    panels = right.subplots(4, 5)
    for i in range(10):
        for row, images in enumerate((originals, rebuilt)):
            ax = panels[2 * (i // 5) + row, i % 5]
            ax.imshow(images[i].view(8, 8).numpy(), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            if i % 5 == 0:
                ax.set_ylabel(("image", "from z")[row])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description="Probabilistic PCA of handwritten digits in plain Pyro.")
    parser.add_argument("--steps", type=int, default=3000, help="gradient steps (default: 3000)")
    steps = parser.parse_args().steps
    if steps < 1:
        parser.error(f"--steps {steps}: expected 1 or more")
    torch.set_num_threads(1)  # matrices this small gain nothing from more, and lose much on a busy machine
    pyro.set_rng_seed(0)
    began = time.perf_counter()
    curve = train(steps)
    print(f"{N} digits of {D} pixels, {d} latent numbers each: {steps} steps in {time.perf_counter() - began:.1f} s\n")
    result = grade()
    print_table(result)
    path = Path("runs/examples/ppca_digits.png")
    draw(curve, result, path)
    print(f"\nfigure: {path}")


if __name__ == "__main__":
    main()


# With `import pyro_lvm`, its PPCA as the model and its LinearGaussian as the guide, the same is three lines:
#
#     result = pyro_lvm.fit(PPCA(data_dim=64, latent_dim=8), LinearGaussian(data_dim=64, latent_dim=8), digits)
#     grade = pyro_lvm.grade(result.pair, digits)
#     print(grade.gap, grade.kl_to_exact, grade.elbo, grade.elbo_exact)
