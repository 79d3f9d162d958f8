"""A table with holes, filled in with honest uncertainty: factor analysis by EM, from the gaps to the intervals.

    python examples/missing_entries.py [--data TABLE.csv] [--drop COLUMN,...] [--log COLUMN,...] [--hide 0.2]

Real tables have gaps. Dropping every row that has one throws most of the table away; filling gaps with column means
bends every correlation. Factor analysis says how columns hang together, a few unseen factors and noise of each column's
own, and what is seen in a row then tells what the gaps may have held: not one number but a distribution. EM fits that
story to the rows as they are, gaps and all.

Can one believe the distribution? Hide entries that are known, and look: of intervals that claim 90%, nine in ten should
hold the truth. Without --data the table is scikit-learn's diabetes data (442 patients, 10 measurements). A table of
one's own may have gaps already; further ones are made, so that there is a truth to compare with, and then the real ones
are filled. The story is Gaussian: columns that can't be negative and lean to one side do better on a log scale.
"""

import argparse
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes

from pyro_lvm.em import FactorAnalysis, select
from pyro_lvm.plots import selection_curve

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="a CSV file of numbers; empty cells are gaps")
parser.add_argument("--drop", default="", help="columns to leave out, such as row numbers")
parser.add_argument("--log", default="", help="columns of positive numbers to model by their logarithm")
parser.add_argument("--hide", type=float, default=0.2, help="share of the known entries to hide")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

# The table, and the entries that are hidden from the model. Units don't matter: factor analysis follows them.

if options.data is None:
    table = load_diabetes(as_frame=True, scaled=False).data
else:
    table = pd.read_csv(options.data).drop(columns=[name for name in options.drop.split(",") if name])
logged = table.columns.isin(options.log.split(","))
for name in table.columns[logged]:
    if table[name].min() <= 0:
        parser.error(f"--log {name}: the column goes down to {table[name].min():g}; a logarithm needs positive numbers")
    table[name] = np.log(table[name])
rng = np.random.default_rng(options.seed)
known = table.notna().to_numpy()
hidden = known & (rng.random(table.shape) < options.hide)
holes = table.mask(hidden)
print(f"{table.shape[0]} rows, {table.shape[1]} columns: {(~known).sum()} gaps of their own, {hidden.sum()} more made")
print(f"rows without a gap: {holes.notna().all(axis=1).sum()}")

# How many factors? As many as tell most about rows that were not used in fitting.

# Factor analysis has room for as many factors as leave fewer numbers to fit than the covariance matrix has.
most = max(d for d in range(1, table.shape[1]) if (table.shape[1] - d) ** 2 >= table.shape[1] + d or d == 1)
with warnings.catch_warnings(record=True):
    curve = select(FactorAnalysis(random_state=0), holes, range(1, most + 1))
print(f"factors: {curve.best}, by held-out evidence over 1 to {most}")


def fit(rows: pd.DataFrame) -> FactorAnalysis:
    """Fit, and say in the text what EM warns of: a column that the others all but determine has no noise of its own."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = FactorAnalysis(curve.best, random_state=0).fit(rows)
    for warning in caught:
        print(f"note: {warning.message}")
    return model


model = fit(holes)

# Impute: the mean is the best single guess. Draws from the exact conditional distribution, entries of a row together,
# give intervals, and anything else that one wants to compute from filled-in tables.

mean = model.impute(holes)
draws = model.impute(holes, draws=1000, random_state=options.seed)
low, high = np.quantile(draws, [0.05, 0.95], axis=0)


def in_units(values: np.ndarray) -> np.ndarray:
    """Back from the logarithms; the mean of a logarithm becomes a median."""
    return np.where(logged, np.exp(np.where(logged, values, 0.0)), values)


# The reckoning, where the truth is known.

truth, scale = table.to_numpy(dtype=float), np.nanstd(table.to_numpy(dtype=float), axis=0)
covered = (low <= truth) & (truth <= high)


def error(guess: np.ndarray) -> float:
    """Root mean square over the hidden entries, in standard deviations of the columns."""
    return float(np.sqrt(np.square((guess - truth) / scale)[hidden].mean()))


shown = {name: in_units(values) for name, values in {"t": truth, "m": mean, "l": low, "h": high}.items()}
print()
print("        truth   imputed   90% interval")
for i, j in np.argwhere(hidden)[:: max(1, int(hidden.sum()) // 10)][:10]:
    spread = f"{shown['l'][i, j]:9.4g} to {shown['h'][i, j]:9.4g}"
    mark = "" if covered[i, j] else "   (outside)"
    print(f"{shown['t'][i, j]:13.4g} {shown['m'][i, j]:9.4g} {spread}   {table.columns[j]}{mark}")
print()
print(f"90% intervals hold the truth in {covered[hidden].mean():.1%} of {hidden.sum()} hidden entries")
print(f"error: {error(mean):.3f} standard deviations; column means: {error(np.nanmean(holes, axis=0)):.3f}")

if (~known).any():
    print()
    print("the gaps that the table came with, fitted with nothing hidden:")
    whole = fit(table)
    filled = in_units(whole.impute(table))
    replicates = whole.impute(table, draws=1000, random_state=options.seed)
    ends = [in_units(end) for end in np.quantile(replicates, [0.05, 0.95], axis=0)]
    for i, j in np.argwhere(~known)[:10]:
        spread = f"{ends[0][i, j]:9.4g} to {ends[1][i, j]:9.4g}"
        print(f"  row {i + 1:4d} {table.columns[j]:12s} {filled[i, j]:9.4g}, 90%: {spread}")
    Path("runs/examples").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(filled, columns=table.columns).to_csv("runs/examples/missing_entries.csv", index=False)
    print("  all of them: runs/examples/missing_entries.csv")

# The picture: the curve that chose, and for the columns with most to say the truth against what was imputed.

figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained", width_ratios=[1.5, 1, 1, 1])
selection_curve(curve, ax=axes[0])
explained = [1 - np.square((mean - truth)[hidden[:, j], j]).mean() / scale[j] ** 2 for j in range(table.shape[1])]
for axis, j in zip(axes[1:], np.argsort(explained)[::-1], strict=False):
    here = hidden[:, j]
    x, y = truth[here, j], mean[here, j]
    bars = np.abs(np.stack([y - low[here, j], high[here, j] - y]))
    axis.errorbar(x, y, yerr=bars, fmt="o", markersize=3, linewidth=0.6, alpha=0.6)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axis.plot(ends, ends, color="black", linewidth=0.8)
    name = f"log {table.columns[j]}" if logged[j] else str(table.columns[j])
    axis.set(title=name, xlabel="truth", ylabel="imputed, with 90% interval")
out = Path("runs/examples/missing_entries.png")
out.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(out, dpi=150)
print(f"figure: {out}")
