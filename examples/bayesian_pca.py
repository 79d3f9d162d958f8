"""How many directions are there? Bayesian PCA is offered twenty and keeps those that the data bear out.

    python examples/bayesian_pca.py [--steps 3000] [--planted 5] [--offered 20]

PCA has to be told its number of dimensions. Too few and it misses something; too many and it takes noise for structure,
and does worse on rows that it hasn't seen. One way out is to fit every number and compare on held-out rows. Another is
to let the model find out. Each column of the loadings gets a prior, N(0, 1 / alpha_k), whose precision is unknown too:

    alpha_k ~ Gamma(a, b),    w_jk ~ N(0, 1 / alpha_k),    z ~ N(0, I),    x | z, W ~ N(s W z + mu, sigma^2 I)

Where a column explains nothing, a large alpha_k costs nothing and makes the column's zeros likely. So it grows, and the
column is switched off. The name for it is automatic relevance determination (Bishop 1999).

Loadings are now latent, and unlike z there is one draw of them for all rows. A batch of 100 of 400 rows has to count
four times against it, else the prior would be felt four times too strongly. `data_plate` sees to that.

The data are simulated, with five directions of different strength planted among thirty features, so that we know what
should be found, and how likely the held-out rows are under the very distribution that made them: no model can expect to
do better.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.console import Console
from torch.distributions import MultivariateNormal

from pyro_lvm import em, fit, grade
from pyro_lvm.guides import SharedLoadings
from pyro_lvm.linear_gaussian import principal_angle
from pyro_lvm.models import BayesianPCA
from pyro_lvm.plots.shared import PALETTE
from pyro_lvm.tables import grade_table

D, N, BATCH = 30, 400, 100

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=3000, help="gradient steps (default: 3000)")
parser.add_argument("--planted", type=int, default=5, help="directions in the data (default: 5)")
parser.add_argument("--offered", type=int, default=20, help="columns that the model may use (default: 20)")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
if options.steps < 1 or not 1 <= options.planted <= options.offered < D:
    parser.error(f"expected --steps from 1 up and 1 <= --planted <= --offered < {D}")
torch.set_num_threads(1)  # matrices this small gain nothing from more

# Rows: orthogonal directions, the strongest with a standard deviation of 6, the weakest 2, in noise of 0.8 a feature.

random = torch.Generator().manual_seed(options.seed)
axes = torch.linalg.qr(torch.randn(D, options.planted, generator=random)).Q
true_loadings = axes * torch.linspace(6, 2, options.planted)
x = torch.randn(3 * N, options.planted, generator=random) @ true_loadings.T
x = x + 0.8 * torch.randn(3 * N, D, generator=random) + 3
train, held_out = x[:N], x[N:]

# Training in batches, and what is kept: the columns whose posterior is further from zero than it is wide.

model, guide = BayesianPCA(D, options.offered), SharedLoadings(D, options.offered)
result = fit(model, guide, train, steps=options.steps, batch_size=BATCH, seed=options.seed, progress=False)
kept = guide.kept
print(f"{result.steps} steps in {result.seconds:.1f} s")
print(f"planted {options.planted}, offered {options.offered}, kept {int(kept.sum())}")
with torch.no_grad():
    if int(kept.sum()) == options.planted:
        angle = principal_angle(guide.loc[:, kept].double(), true_loadings.double())
        print(f"largest angle between what was kept and what was planted: {angle:.1f} degrees")
graded = grade(result.pair, train), grade(result.pair, held_out, train_rows=train)
Console(width=110).print(grade_table(*graded, title="Bayesian PCA"))

# The other way: fit every number by maximum likelihood, and look at the held-out rows.

true = MultivariateNormal(
    torch.full((D,), 3.0, dtype=torch.float64),
    true_loadings.double() @ true_loadings.double().T + 0.8**2 * torch.eye(D, dtype=torch.float64),
)
best = float(true.log_prob(held_out.double()).mean())
rows, unseen = train.double().numpy(), held_out.double().numpy()
sweep = {dim: em.PPCA(dim).fit(rows).score(unseen) for dim in range(1, options.offered + 1)}
chosen = max(sweep, key=lambda dim: sweep[dim])
plug_in, predictive = graded[1].plug_in_evidence, graded[1].predictive_evidence
assert plug_in is not None
assert predictive is not None
print("held-out rows                                              nats a row")
for name, value in (
    ("the distribution that made them", best),
    (f"Bayesian PCA, {options.offered} offered, averaged over its loadings", predictive),
    ("the same, loadings at their means", plug_in),
    (f"PPCA, d = {chosen}, the best of {len(sweep)} by looking at these rows", sweep[chosen]),
    (f"PPCA, d = {options.offered}", sweep[options.offered]),
):
    print(f"{name:58s} {value:10.3f}")

# The picture: how long each column is, before and after, and what that is worth on held-out rows.

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
fitted = em.PPCA(options.offered).fit(rows)
with torch.no_grad():
    length = (model.unit * guide.loc).square().sum(0).sqrt().sort(descending=True)
    spread = (model.unit * guide.scale).square().sum(0).sqrt()[length.indices]
    on = kept[length.indices]
    offered = torch.as_tensor(fitted.loadings_).square().sum(0).sqrt().sort(descending=True).values
position = torch.arange(1, options.offered + 1)
left.plot(
    position,
    offered,
    "o",
    color=PALETTE[1],
    markersize=10,
    markerfacecolor="none",
    label=f"PPCA, d = {options.offered}",
)
left.errorbar(position[on], length.values[on], spread[on], fmt="o", color=PALETTE[0], label="Bayesian PCA, kept")
if not bool(on.all()):
    left.errorbar(
        position[~on], length.values[~on], spread[~on], fmt="o", color="0.6", label="Bayesian PCA, switched off"
    )
planted = true_loadings.square().sum(0).sqrt()
left.hlines(
    planted, position[: options.planted] - 0.45, position[: options.planted] + 0.45, color="black", label="planted"
)
left.set(xlabel="column, by length", ylabel="length of the loadings", title="Offered, kept and planted", ylim=(0, None))
left.set_xlim(0.3, options.offered + 0.7)
right.plot(list(sweep), list(sweep.values()), marker="o", color=PALETTE[1], label="PPCA, one fit a number")
right.axhline(best, color="black", linewidth=1, label="the distribution that made them")
right.axhline(predictive, color=PALETTE[0], linewidth=2, label="Bayesian PCA, one fit in all")
low = min(min(value for dim, value in sweep.items() if dim >= options.planted), predictive)
right.set_ylim(low - 1.0 * (best - low), best + 0.3 * (best - low))
right.set(xlabel="d", ylabel="log-evidence (nats/row)", title=f"{len(held_out)} held-out rows")
for ax in (left, right):
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(axis="y", color="0.92")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend()
path = Path("runs/examples/bayesian_pca.png")
path.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(path, dpi=150)
print(f"\nfigure: {path}")
