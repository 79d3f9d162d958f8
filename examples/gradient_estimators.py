"""Why a guide is trained through its draws: the log-derivative trick, baselines and reparameterization side by side.

    python examples/gradient_estimators.py [--steps 1000] [--draws 100]

Training a guide q(z | x) by gradients meets an obstacle. The ELBO is a mean over draws z ~ q, and the parameters to be
trained sit in q itself, in what is drawn *from*. There are two ways past it.

- The **log-derivative trick** (score function): a mean's gradient is a mean again,

      grad E_q[f(z)] = E_q[f(z) grad log q(z)]        f(z) = log p(x, z) - log q(z | x)

  It asks nothing of f or q. But it only draws a z, looks at the one number f(z), and makes that z likelier in
  proportion. With eight latents one number has to tell what each of the eight did, and most of that number is the same
  whatever the z: noise.

- **Reparameterization**: write z = m + s e with e ~ N(0, 1), and the parameters come out of what is drawn. The gradient
  then goes through f, which knows for each of the eight latents in which direction it should have gone.

**Baselines** repair the first: subtract from f what was to be expected anyway, a running average or a network's guess
from the row. The mean stays the same, as grad log q is zero on average, and the noise shrinks.

This file measures all of them on handwritten digits. Probabilistic PCA has a closed form for the ELBO's gradient, so
that what is signal and what is noise is known exactly. All estimators are unbiased; they differ in noise and in cost.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from pyro_lvm import Pair, data, fit
from pyro_lvm.gradients import GUIDE, GradientEstimator, compare
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.mixture_posterior import posterior_kl
from pyro_lvm.models import PPCA

COLOURS = {
    "score": "#D55E00",
    "score+average": "#E69F00",
    "score+network": "#009E73",
    "reparameterization": "#0072B2",
}
digits = data.load("digits").rows


def make_pair(latent_dim, steps):
    """A pair after a few steps of training: at the very start the latents do nothing yet, and any gradient will do."""
    torch.manual_seed(0)
    pair = Pair(PPCA(64, latent_dim), LinearGaussian(64, latent_dim))
    fit(pair.model, pair.guide, digits, steps=steps, pair=pair, device="cpu", progress=False)
    return pair


# How large is the noise for a guide of 1, 2, 4, 8 latents? The same rows every time, so that there is no noise but the
# draws'.


def noise_by_dimension(draws):
    dimensions, noise = [1, 2, 4, 8, 16], {name: [] for name in COLOURS}
    for latent_dim in dimensions:
        pair = make_pair(latent_dim, steps=100)
        found = compare(pair.model, pair.guide, digits[:256], list(COLOURS), draws, pair=pair, progress=False)
        if latent_dim == 8:
            print(f"eight latents, after 100 steps of training\n\n{found}\n")
        frame = found.to_frame()
        frame = frame[frame["parameter"] == GUIDE].set_index("estimator")
        for name in COLOURS:
            noise[name].append(1 / frame.loc[name, "signal_to_noise"])
    return dimensions, noise


# And what does it do to training? The same start, the same batches, the same optimizer; only the estimator differs. In
# batches a baseline that is an average can't know which row it will meet; the network is told.


def train(name, steps, batch_size=256):
    torch.manual_seed(0)
    pair = Pair(PPCA(64, 8), LinearGaussian(64, 8))
    pair.start(digits, torch.Generator().manual_seed(0))
    estimator = GradientEstimator(name, pair, digits[:batch_size], num_rows=len(digits))
    optimizer = torch.optim.Adam([p for _, p in pair.named_parameters()], lr=0.03)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.001 ** (1 / steps))
    curve = []
    for step in range(1, steps + 1):
        estimator.backward(digits[torch.randperm(len(digits))[:batch_size]])
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % max(1, steps // 40) == 0:
            curve.append((step, exact_elbo(pair)))
    return curve


@torch.no_grad()
def exact_elbo(pair):
    """Log-evidence minus KL(guide || exact posterior), nats a row."""
    divergence = posterior_kl(pair.guide.encode(digits), pair.model.exact_posterior(digits))
    return float((pair.model.log_evidence(digits) - divergence).mean())


def draw(dimensions, noise, curves, optimum, path):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, colour in COLOURS.items():
        left.plot(dimensions, noise[name], color=colour, marker="o", label=name)
        steps, elbos = zip(*curves[name], strict=True)
        right.plot(steps, [optimum - elbo for elbo in elbos], color=colour, label=name)
    left.axhline(1, color="0.6", linewidth=1, linestyle="--")
    left.text(dimensions[-1], 0.88, "noise = signal", color="0.4", fontsize=9, ha="right", va="top")
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_xticks(dimensions, [str(d) for d in dimensions])
    left.set(xlabel="latents", ylabel="noise / signal of the guide's gradient")
    left.set_title("One draw of the gradient, 256 digits")
    right.set_yscale("log")
    right.set(xlabel="steps", ylabel="optimum - ELBO (nats/row)")
    right.set_title("Eight latents, trained by each")
    for ax in (left, right):
        ax.grid(axis="y", color="0.92")
        ax.set_axisbelow(True)
    right.legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description="Gradient estimators of an amortized guide, side by side.")
    parser.add_argument("--steps", type=int, default=1000, help="training steps for each estimator (default: 1000)")
    parser.add_argument("--draws", type=int, default=100, help="draws of each gradient (default: 100)")
    options = parser.parse_args()
    if options.steps < 1 or options.draws < 2:
        parser.error("expected --steps from 1 up and --draws from 2 up")
    torch.set_num_threads(1)
    dimensions, noise = noise_by_dimension(options.draws)
    print("noise / signal of the guide's gradient, by number of latents")
    print(f"{'':20s}" + "".join(f"{d:>10d}" for d in dimensions))
    for name in COLOURS:
        print(f"{name:20s}" + "".join(f"{value:10.3g}" for value in noise[name]))
    optimum = float(PPCA(64, 8).maximum_likelihood(digits).log_evidence(digits).detach().mean())
    print(f"\nELBO after {options.steps} steps, nats a row below the optimum {optimum:.4f}")
    curves = {}
    for name in COLOURS:
        curves[name] = train(name, options.steps)
        print(f"{name:20s}{optimum - curves[name][-1][1]:10.3g}", flush=True)
    path = Path("runs/examples/gradient_estimators.png")
    draw(dimensions, noise, curves, optimum, path)
    print(f"\nfigure: {path}")


if __name__ == "__main__":
    main()
