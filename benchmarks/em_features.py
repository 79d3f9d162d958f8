"""Cost of a step of EM against the number of features D, and its slope in logarithms: EM is O(N D d), not O(N D^2).

    python benchmarks/em_features.py [--rows 1000] [--latent 10] [--features 100 200 400 800 1600 3200] [--repeats 5]

Complete rows and rows with 30% of entries missing; for comparison, the closed form.
"""

import argparse
import warnings

import numpy as np
from em_timing import alternate, machine
from sklearn.exceptions import ConvergenceWarning

from pyro_lvm.em import PPCA

# Enough steps for what comes before them not to count.
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--features", type=int, nargs="+", default=[100, 200, 400, 800, 1600, 3200])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(options.rows, options.latent))
    print(machine())
    print(f"{options.rows} rows, d = {options.latent}; seconds of {STEPS} steps of EM, and of the closed form")
    print(f"{'D':>6s} {'EM, complete':>13s} {'EM, 30% missing':>16s} {'closed form':>12s}")
    table: dict[str, list[float]] = {"complete": [], "missing": [], "closed": []}
    for size in options.features:
        x = latents @ rng.normal(size=(options.latent, size)) + rng.normal(size=(options.rows, size))
        holes = np.where(rng.random(x.shape) < 0.3, np.nan, x)
        em = PPCA(options.latent, method="em", max_iter=STEPS, tol=1e-300, random_state=0)
        runs = {
            "complete": lambda em=em, x=x: em.fit(x),
            "missing": lambda em=em, holes=holes: em.fit(holes),
            "closed": lambda x=x: PPCA(options.latent).fit(x),
        }
        seconds = alternate(runs, options.repeats)
        for name, value in seconds.items():
            table[name].append(value)
        print(f"{size:6d} {seconds['complete']:13.4f} {seconds['missing']:16.4f} {seconds['closed']:12.4f}", flush=True)
    slopes = [np.polyfit(np.log(options.features), np.log(values), 1)[0] for values in table.values()]
    print(f"{'slope':>6s} {slopes[0]:13.2f} {slopes[1]:16.2f} {slopes[2]:12.2f}")


if __name__ == "__main__":
    main()
