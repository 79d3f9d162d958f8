"""What is subtracted from the score function's learning signal: an average of the past, or a network's guess."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_lvm.elbo import row_elbo
from pyro_lvm.pair import Pair

# Of the old average that Pyro keeps at each draw.
_DECAY = 0.9
_HIDDEN = 64
_RATE = 1e-2
# Draws of the ELBO from which the size of the learning signal is read.
_DRAWS = 4


def average_baseline(site: Any) -> dict[str, Any]:
    """A decaying average of each row's learning signal; in minibatches, of what stood at the row's place."""
    return {"use_decaying_avg_baseline": True, "baseline_beta": _DECAY}


class NetworkBaseline:
    """A network from the row to its expected learning signal, trained along by least squares.

    It is one hidden layer on standardized rows, and predicts in units of the rows' ELBOs. A latent that all rows share
    has no row to be predicted from; it gets the decaying average.

    Args:
        pair: Whose learning signal it is to predict.
        x: Rows, from which the units are taken.

    Source: Mnih & Gregor 2014, "Neural variational inference and learning in belief networks", ICML.
    """

    def __init__(self, pair: Pair, x: Tensor) -> None:
        rows = x.reshape(len(x), -1).double()
        self.origin = rows.nanmean(0).nan_to_num(0.0)
        deviation = (rows - self.origin).square().nanmean(0).sqrt().nan_to_num(0.0)
        self.unit = torch.where(deviation > 0, deviation, 1.0)
        with pair.evaluating():
            elbo = row_elbo(pair, x, _DRAWS)
        self.mean, self.spread = float(elbo.mean()), max(float(elbo.std(correction=0)), 1e-3 * float(elbo.abs().mean()))
        last = nn.Linear(_HIDDEN, 1)
        nn.init.zeros_(last.weight)
        self.network = nn.Sequential(nn.Linear(rows.shape[1], _HIDDEN), nn.Tanh(), last).to(x.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=_RATE)
        self.batch = x

    def __call__(self, site: Any) -> dict[str, Any]:
        """What Pyro is told of a site."""
        frame = next((f for f in site["cond_indep_stack"] if f.vectorized and f.size == len(self.batch)), None)
        if frame is None:
            return average_baseline(site)
        shape = site["fn"].batch_shape

        def guess(batch: Tensor) -> Tensor:
            rows = (batch.reshape(len(batch), -1).double() - self.origin) / self.unit
            output = self.network(rows.nan_to_num(0.0).float()).squeeze(-1)
            # The signal is each row's part of the ELBO a row.
            signal: Tensor = (self.mean + self.spread * output) / len(batch)
            return signal.reshape(-1, *(1,) * (-frame.dim - 1)).expand(shape)

        return {"nn_baseline": guess, "nn_baseline_input": self.batch}

    def learn(self) -> None:
        """One step on the gradient that the last draw left."""
        self.optimizer.step()
        self.optimizer.zero_grad()
