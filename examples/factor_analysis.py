"""What measurements have in common, and what each has for itself: factor analysis of wines, with a third of it missing.

    python examples/factor_analysis.py [--steps 3000] [--hide 0.3]

178 Italian wines were measured in 13 ways, from alcohol to colour, each in a unit of its own. Measurements move
together because something behind them moves: the grape, the soil, the cellar. Factor analysis says so in one line,

    z ~ N(0, I),    x | z ~ N(W z + mu, diag(psi))

a few factors z that nobody measured, and for each measurement a noise of its own. That noise is what it has over
probabilistic PCA, which gives all measurements the same one: in PCA whatever is measured in the largest unit wins.

The guide goes back from a wine to its factors. Here a third of the training table is hidden, so that hardly two wines
have the same gaps, and one formula has to serve every pattern. `ProductOfExperts` does: each measurement that is there
sends one message, "the factors lie about here, and I am this sure", and messages are multiplied. A measurement that is
missing sends none. For factor analysis this is exactly Bayes' rule, so we can see whether training gets all the way,
also for patterns that it never met: wines measured completely, or hardly at all.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Ellipse
from rich.console import Console
from sklearn.datasets import load_wine

from pyro_lvm import em, fit, grade
from pyro_lvm.guides import ProductOfExperts
from pyro_lvm.linear_gaussian import gaussian_kl
from pyro_lvm.models import FactorAnalysis
from pyro_lvm.plots.shared import PALETTE
from pyro_lvm.tables import grade_table

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=3000, help="gradient steps (default: 3000)")
parser.add_argument("--hide", type=float, default=0.3, help="share of the training table to hide (default: 0.3)")
options = parser.parse_args()
if options.steps < 1 or not 0 <= options.hide <= 0.8:
    parser.error("expected --steps from 1 up and --hide between 0 and 0.8")
torch.set_num_threads(1)  # matrices this small gain nothing from more

# The table; one wine in five is held out, and of the others a third of the entries is hidden.

wine = load_wine(as_frame=True)
names = [
    name.replace("_", " ").replace("color", "colour").replace("od280/od315 of diluted wines", "OD280/OD315")
    for name in wine.data.columns
]
x = torch.tensor(wine.data.to_numpy(), dtype=torch.float32)
cultivar = wine.target.to_numpy()
random = torch.Generator().manual_seed(0)
D, d = x.shape[1], 2


def hide(rows: torch.Tensor, share: float) -> torch.Tensor:
    """The same rows with this share of the entries gone."""
    return rows.masked_fill(torch.rand(rows.shape, generator=random) < share, torch.nan)


order = torch.randperm(len(x), generator=random)
held_out, train = x[order[: len(x) // 5]], hide(x[order[len(x) // 5 :]], options.hide)
print(f"{len(train)} wines to train on, {int(train.isnan().any(1).sum())} of them with gaps; {len(held_out)} held out")

# Training, and the grade. The best model there is comes from EM, which integrates the gaps out.

model, guide = FactorAnalysis(D, d), ProductOfExperts(D, d)
result = fit(model, guide, train, steps=options.steps, progress=False)
print(f"{result.steps} steps in {result.seconds:.1f} s")
pair = result.pair
graded = grade(pair, train), grade(pair, held_out, train_rows=train)
Console(width=110).print(grade_table(*graded, title=f"factor analysis of wines, d = {d}"))

# One formula for every pattern of gaps: how far is it from Bayes' rule?

print("share of entries missing        KL(guide || exact posterior), nats a wine")
with torch.no_grad():
    for share in (0.0, 0.3, 0.6, 0.9):
        some = hide(x, share)
        kl = float(gaussian_kl(guide.encode(some), model.exact_posterior(some)).mean())
        print(f"{share:>14.0%}                  {kl:.5f}")

# What is noise of its own worth? The same table, the same number of factors, other noise; all by maximum likelihood, on
# held-out wines. Standardised, a row's density is in other units: the logarithms of the scales bring it back.

rows, unseen = train.double().numpy(), held_out.double().numpy()
centre, scale = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
standard = [(some - centre) / scale for some in (rows, unseen)]
rivals = {
    "factor analysis, trained here": float(graded[1].log_evidence or 0.0),
    "factor analysis, by EM": em.FactorAnalysis(d, noise_floor=model.noise_floor, random_state=0)
    .fit(rows)
    .score(unseen),
    "PPCA of standardised measurements": em.PPCA(d).fit(standard[0]).score(standard[1]) - np.log(scale).sum(),
    "PPCA of the measurements as they are": em.PPCA(d).fit(rows).score(unseen),
}
print("\nlog-evidence of held-out wines            nats a wine")
for name, evidence in rivals.items():
    print(f"{name:40s} {evidence:12.3f}")

# The picture: what each measurement shares with the others, and where wines lie. One of them is looked at with fewer
# and fewer of its measurements, down to none, where nothing is known and the prior is the honest answer.

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", width_ratios=[1, 1.15])
with torch.no_grad():
    common = model.loadings.square().sum(1)
    share = (common / (common + model.noise_variance)).numpy()
    place = guide.encode(x).mean.numpy()
    one = held_out[:1].repeat(4, 1)
    kept = torch.randperm(D, generator=random)
    counts = [D, 5, 2, 0]
    for row, count in zip(one, counts, strict=True):
        row[kept[count:]] = torch.nan
    guessed, exact = guide.encode(one), model.exact_posterior(one)
rank = np.argsort(share)
left.barh(range(D), share[rank], color=PALETTE[0], label="the factors")
left.barh(range(D), 1 - share[rank], left=share[rank], color="0.87", label="its own noise")
left.set_yticks(range(D), [names[j] for j in rank])
left.set(xlim=(0, 1), xlabel="share of the measurement's variance", title="What the factors explain")
left.legend(loc="lower right", framealpha=1)
left.spines[["top", "right"]].set_visible(False)


def ellipse(mean: torch.Tensor, covariance: torch.Tensor, **style: object) -> None:
    """Where a Gaussian in the plane has 90% of its mass."""
    lengths, axes = np.linalg.eigh(covariance.double().numpy())
    reach = 2 * np.sqrt(2 * np.log(10) * lengths)
    angle = np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
    right.add_patch(Ellipse(tuple(mean.tolist()), reach[1], reach[0], angle=angle, fill=False, **style))


for group in range(3):
    here = cultivar == group
    right.scatter(*place[here].T, s=14, color=PALETTE[group], alpha=0.6, linewidths=0, label=f"cultivar {group + 1}")
for k, count in enumerate(counts):
    shade = str(0.2 * k)
    label = "no measurement" if count == 0 else f"{count} measurements"
    ellipse(guessed.mean[k], guessed.covariance_matrix[k], color=shade, linewidth=1.8, label=label)
    ellipse(exact.mean[k], exact.covariance_matrix[k], color=PALETTE[5], linewidth=1.1, linestyle=(0, (4, 4)))
right.plot([], [], color=PALETTE[5], linewidth=1.1, linestyle=(0, (4, 4)), label="Bayes' rule")
right.set(xlabel="factor 1", ylabel="factor 2", title="One wine, known less and less (90% ellipses)")
right.set_aspect("equal")
right.autoscale_view()
right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
right.spines[["top", "right"]].set_visible(False)
path = Path("runs/examples/factor_analysis.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=150)
print(f"\nfigure: {path}")
