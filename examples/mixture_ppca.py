"""A curved cloud, one line against several: mixtures of probabilistic PCA.

    python examples/mixture_ppca.py [--steps 2000] [--data FOLDER]

PCA lays one straight line (or plane) through a cloud. Where the cloud bends, a line is a poor summary: it runs through
places where there is nothing. A mixture of PPCAs lays several, each where it fits, and so follows a curve with
straight pieces:

    t ~ Categorical(pi),    z ~ N(0, I),    x | t, z ~ N(W_t z + mu_t, sigma_t^2 I)

t says which piece a point belongs to, z where along that piece it lies. It is the simplest non-linear reduction of
dimensions, and everything in it can still be computed: the evidence, and the exact posterior of t and z together.

The guide q(t, z | x) says for each point which piece, and given the piece, where. t is discrete and can't be moved a
little along its gradient; with ten pieces one can simply sum over them, and that is what is done here. Two things keep
pieces from dying, that is from losing all their points to others in the first steps: the model starts from k-means, a
PCA of each cluster and a few steps of EM, and the guide starts as the exact posterior of that. In small data that is
nearly where EM ends; what training then shows is that SVI stays there.

Does it pay? On the curved cloud that is plain to see. On handwritten digits, and on the oil-flow data if --data names
the folder with its files, the held-out rows tell: natural logarithms of their density, a row on average.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Ellipse
from torch import Tensor

from pyro_lvm import data, fit, grade
from pyro_lvm.guides import MixtureOfExperts
from pyro_lvm.models import PPCA, MixturePPCA
from pyro_lvm.plots.shared import PALETTE, minus


def curved_cloud(num_rows: int, generator: torch.Generator) -> Tensor:
    """Points along a spiral of a little over one turn, with some noise across it."""
    angle = 2.4 * torch.pi * torch.rand(num_rows, generator=generator).sqrt()
    radius = 0.5 + 0.45 * angle
    line = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return line + 0.13 * torch.randn(num_rows, 2, generator=generator)


@dataclass
class Outcome:
    """What became of one data set, and what it is worth on held-out rows, nats a row."""

    model: MixturePPCA
    one: PPCA
    train: Tensor
    single: float
    several: float


def compare(name: str, x: Tensor, num_components: int, latent_dim: int, steps: int) -> Outcome:
    """Train a mixture, and grade it against one PPCA of as many latents, EM, and the exact posterior."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held_out, train = x[order[: len(x) // 5]], x[order[len(x) // 5 :]]
    model = MixturePPCA(x.shape[1], latent_dim, num_components)
    guide = MixtureOfExperts(x.shape[1], latent_dim, num_components)
    result = fit(model, guide, train, steps=steps, progress=False)
    graded = grade(result.pair, train), grade(result.pair, held_out, train_rows=train)
    one = PPCA(x.shape[1], latent_dim).maximum_likelihood(train)
    with torch.no_grad():
        single = [float(one.log_evidence(rows).mean()) for rows in (train, held_out)]
        alive = int((model.weights > 0.1 / num_components).sum())
    print(f"\n{name}: {len(train)} rows to train on, {len(held_out)} held out, {steps} steps in {result.seconds:.1f} s")
    print(f"{'nats a row':46s} {'training':>10s} {'held-out':>10s}")
    print(f"{f'one PPCA, d = {latent_dim}: best log-evidence':46s} {single[0]:10.4f} {single[1]:10.4f}")
    for label, key in (
        (f"{num_components} of them: log-evidence", "log_evidence"),
        ("EM from there, to the nearest maximum", "log_evidence_ml"),
        ("KL(guide || exact posterior)", "kl_to_exact"),
        ("ELBO by draws", "elbo"),
        ("ELBO exact: log-evidence - KL", "elbo_exact"),
    ):
        print(f"{label:46s} {getattr(graded[0], key):10.4f} {getattr(graded[1], key):10.4f}")
    several = graded[1].log_evidence
    assert several is not None
    print(f"several instead of one: {several - single[1]:+.3f} nats a held-out row; {alive} of {num_components} alive")
    return Outcome(model, one, train, single[1], several)


# The picture. A PPCA of one latent in the plane is a line with a width: the line reaches two standard deviations of z
# each way, and the ellipse around it holds what the piece calls likely.


def draw_piece(ax: plt.Axes, loadings: Tensor, mean: Tensor, noise_variance: Tensor, colour: str) -> None:
    axis, centre = loadings.double()[:, 0].numpy(), mean.double().numpy()
    ends = np.stack([centre - 2 * axis, centre + 2 * axis])
    ax.plot(*ends.T, color=colour, linewidth=2.5, solid_capstyle="round", zorder=3)
    along, across = np.sqrt(axis @ axis + float(noise_variance)), float(noise_variance) ** 0.5
    angle = np.degrees(np.arctan2(axis[1], axis[0]))
    ax.add_patch(Ellipse(tuple(centre), 4 * along, 4 * across, angle=angle, color=colour, alpha=0.15, linewidth=0))


@torch.no_grad()
def draw(curve: Outcome, digits: Outcome, path: Path) -> None:
    figure = plt.figure(figsize=(14, 4.8), layout="constrained")
    lines, images = figure.subfigures(1, 2, width_ratios=[1.9, 1.1])
    left, right = lines.subplots(1, 2, sharex=True, sharey=True)
    left.scatter(*curve.train.T, s=7, color="0.6", linewidths=0)
    draw_piece(left, curve.one.loadings, curve.one.mean, curve.one.noise_variance, PALETTE[5])
    one, several = minus(f"{curve.single:.2f}"), minus(f"{curve.several:.2f}")
    title = f"A curved cloud: one line, {one} nats a held-out point; {curve.model.num_components} lines, {several}\n"
    lines.suptitle(title, fontsize=11)
    mixture = curve.model
    colours = [PALETTE[k % 6] for k in range(mixture.num_components)]
    # Neighbours along the spiral should differ in colour: they do where pieces are numbered along it.
    piece = mixture.exact_posterior(curve.train).responsibilities.argmax(1)
    along = mixture.means.norm(dim=1).argsort().argsort()
    right.scatter(*curve.train.T, s=7, c=[colours[along[k]] for k in piece], alpha=0.5, linewidths=0)
    for k in range(mixture.num_components):
        draw_piece(right, mixture.loadings[k], mixture.means[k], mixture.noise_variance[k], colours[along[k]])
    for ax in (left, right):
        ax.set_aspect("equal")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("0.85")
    weights, order = digits.model.weights.sort(descending=True)
    title = f"Digits: the middles of {len(order)} pieces, and their shares\n"
    images.suptitle(title + f"{digits.several:.1f} nats a held-out digit; one PPCA: {digits.single:.1f}", fontsize=11)
    for ax, k, weight in zip(images.subplots(3, 4).flat, order, weights, strict=False):
        ax.imshow(digits.model.means[k].view(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(f"{float(weight):.0%}", fontsize=9)
        ax.set(xticks=[], yticks=[])
    for ax in images.axes[len(order) :]:
        ax.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="gradient steps for each data set (default: 2000)")
    parser.add_argument("--data", type=Path, help="folder of the oil-flow files, to compare on these too")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps {options.steps}: expected 1 or more")
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    cloud = curved_cloud(1000, torch.Generator().manual_seed(0))
    curve = compare("curved cloud", cloud, num_components=8, latent_dim=1, steps=options.steps)
    digits = compare("digits", data.load("digits").rows, num_components=10, latent_dim=4, steps=options.steps)
    if options.data is not None:
        oil = data.load("oil-flow", root=options.data).rows
        compare("oil flow", oil, num_components=5, latent_dim=2, steps=options.steps)
    path = Path("runs/examples/mixture_ppca.png")
    draw(curve, digits, path)
    print(f"\nfigure: {path}")


if __name__ == "__main__":
    main()
