"""A variational autoencoder of handwritten digits in two dimensions: a map, what it decodes to, and what it is worth.

    python examples/vae_digits.py [--likelihood gaussian] [--steps 15000]

Probabilistic PCA puts digits on a plane by a linear map. A variational autoencoder has the same story with a network in
the place of the map: z ~ N(0, I) in two dimensions, x | z around f(z). The guide is another network, which reads an
image and says where on the plane it may lie, and how surely. Nobody can compute the posterior here; but the evidence is
bounded from below by the ELBO, and more tightly by importance sampling.

All results are in nats a row: natural logarithms of a density, averaged over the digits. Higher is better.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from pyro_lvm import data, fit, plots
from pyro_lvm.evidence import elbo, iwae
from pyro_lvm.guides import GaussianEncoder
from pyro_lvm.latent import LatentSpace, neighbourhoods
from pyro_lvm.models import VAE

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--likelihood", default="gaussian", help="gaussian, gaussian-decoded, continuous-bernoulli, ...")
parser.add_argument("--steps", type=int, default=None, help="budget; without one, until held-out rows gain no more")
parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder of the figures")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

digits = data.load("digits")
rows, labels = digits.rows, digits.labels

# Model and guide: two networks of two hidden layers each, mirror images of each other.

model = VAE(64, latent_dim=2, likelihood=options.likelihood, image_shape=(8, 8))
guide = GaussianEncoder(64, latent_dim=2, image_shape=(8, 8))
result = fit(model, guide, rows, steps=options.steps, validation=0.1, seed=options.seed)
print(f"{result.stopped} after {result.steps} steps, {result.seconds:.1f} s")

# What it is worth: bounds on the evidence, for the rows it was trained on and for those that `fit` held out to see when
# the networks begin to know the others by heart.

held_out = torch.zeros(len(rows), dtype=torch.bool)
held_out[torch.from_numpy(result.validation_rows)] = True
for name, some in (("training rows", rows[~held_out]), ("held-out rows", rows[held_out])):
    lower, tighter = elbo(result.pair, some), iwae(result.pair, some, k=500)
    print(
        f"{name}: ELBO {lower.mean:.2f}, 500 importance samples {tighter.mean:.2f} "
        f"+- {tighter.row_standard_error:.2f} nats a row"
    )

# How well two dimensions keep who is near whom, beside PCA's two.

space = LatentSpace(result.pair, rows)
z = space.embed()
kept = neighbourhoods(rows, z, labels, seed=options.seed)
print(
    f"5 nearest neighbours tell the digit: {kept.accuracy:.1%} on this plane, {kept.pca_accuracy:.1%} on PCA's plane,"
)
print(f"{kept.raw_accuracy:.1%} from all 64 pixels; neighbours that are true: {kept.trustworthiness:.3f}, ", end="")
print(f"on PCA's plane {kept.pca_trustworthiness:.3f}")

# The pictures: the plane with its digits and what it decodes to; digits under prior and posterior; reconstructions.

options.out.mkdir(parents=True, exist_ok=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(13.5, 6.4), layout="constrained")
plots.latent_map(z, labels, label_names=digits.label_names, ax=left)
grid = space.grid(15)
plots.decoded_grid(space.decode(grid), (8, 8), z=grid, limits=(0, 1), ax=right)
figure.savefig(options.out / "vae_digits.png", dpi=110)
plots.prior_and_posterior(space.draw_prior(len(rows)), space.draw(), labels, label_names=digits.label_names)
plt.savefig(options.out / "vae_digits_prior.png", dpi=150)
shown = torch.cat([(labels == digit).nonzero()[:1, 0] for digit in range(10)])
images = torch.stack([rows[shown], space.decode(z[shown])])
plots.image_rows(images, (8, 8), row_titles=["digit", "decoded"], title="Digits, and what their place decodes to")
plt.savefig(options.out / "vae_digits_reconstructions.png", dpi=150)
print(f"figures: {options.out}/vae_digits.png, ..._prior.png, ..._reconstructions.png")
