"""What every picture does alike: it draws on the axes it is given, from tensors as from arrays."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyro_lvm import plots
from pyro_lvm.history import History


def short_history() -> History:
    history = History()
    for step, elbo in ((10, -2.0), (20, -1.0)):
        history.add(step=step, epoch=step / 10, lr=0.1, elbo=elbo)
    return history


@pytest.mark.parametrize(
    "call",
    [
        lambda ax: plots.elbo_curve(short_history(), optimum=0.0, ax=ax),
        lambda ax: plots.latent_map(np.eye(3), [0, 1, 2], ax=ax),
        lambda ax: plots.latent_map(np.eye(3)[:, :1], ax=ax),
        lambda ax: plots.loadings_heatmap(np.eye(3), ax=ax),
        lambda ax: plots.reconstruction_scatter(np.eye(3), np.eye(3), ax=ax),
    ],
)
def test_given_axes_are_used_and_returned(call):
    """A function that opens a figure of its own can't be part of a larger one."""
    figure, (ax, other) = plt.subplots(1, 2)
    assert call(ax) is ax
    assert ax.has_data()
    assert ax.get_title()
    assert not other.has_data()
    assert plt.get_fignums() == [figure.number]


def test_tensors_with_gradients_draw():
    """A model's loadings and posterior means come with their graphs."""
    tensor = torch.rand(6, 2, requires_grad=True)
    plots.latent_map(tensor)
    plots.loadings_images(tensor, (2, 3))
    plots.reconstruction_scatter(tensor, tensor)
