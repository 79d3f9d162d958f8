"""Pictures of a training and of a trained pair, each a function that takes matplotlib axes and returns them.

Nothing is shown and no style is changed; a figure is made only where no axes are given.
"""

from pyro_lvm.plots.calibration import coverage_curves, rank_ecdf, rank_ecdfs
from pyro_lvm.plots.curves import elbo_curve
from pyro_lvm.plots.decoded import decoded_grid, grid_figure_size, image_rows, samples_and_nearest
from pyro_lvm.plots.entries import density_overlay, pit_plot
from pyro_lvm.plots.gap import gap_bars
from pyro_lvm.plots.gradients import gradient_noise
from pyro_lvm.plots.images import grid_layout
from pyro_lvm.plots.latent import latent_map
from pyro_lvm.plots.latent_space import prior_and_posterior
from pyro_lvm.plots.loadings import heatmap_size, loadings_heatmap, loadings_images
from pyro_lvm.plots.predictive import replicate_images, statistic_check, statistic_checks
from pyro_lvm.plots.reconstruction import reconstruction_scatter, reconstructions
from pyro_lvm.plots.selection import selection_curve
from pyro_lvm.plots.units import kl_per_dimension, traversal_lines
from pyro_lvm.plots.weights import pareto_k_histogram

__all__ = [
    "coverage_curves",
    "decoded_grid",
    "density_overlay",
    "elbo_curve",
    "gap_bars",
    "gradient_noise",
    "grid_figure_size",
    "grid_layout",
    "heatmap_size",
    "image_rows",
    "kl_per_dimension",
    "latent_map",
    "loadings_heatmap",
    "loadings_images",
    "pareto_k_histogram",
    "pit_plot",
    "prior_and_posterior",
    "rank_ecdf",
    "rank_ecdfs",
    "reconstruction_scatter",
    "reconstructions",
    "replicate_images",
    "samples_and_nearest",
    "selection_curve",
    "statistic_check",
    "statistic_checks",
    "traversal_lines",
]
