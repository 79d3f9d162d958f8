"""EM on a stream of batches, each seen once: statistics that forget what early batches got wrong."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from pyro_lvm.em.expectation import Statistics, add, expect
from pyro_lvm.em.maximization import maximise
from pyro_lvm.em.parameters import NoiseModel, Parameters
from pyro_lvm.em.rows import Rows

# Between 1/2 (forgets fastest) and 1 (forgets nothing).
_FORGETTING = 0.6


@dataclasses.dataclass(frozen=True)
class Stepwise:
    """Where a stream of batches has led.

    Attributes:
        origin: what is 0 in the units that the rest is in, (data_dim,).
        unit: what is 1 in them, (data_dim,).
        noise: the noise variances that are allowed.
        parameters: the current ones.
        statistics: averages a row, of all batches so far.
        num_rows: rows so far.
    """

    origin: Tensor
    unit: Tensor
    noise: NoiseModel
    parameters: Parameters
    statistics: Statistics
    num_rows: int

    def after(self, rows: Rows) -> Stepwise:
        """Take in one more batch.

        With b rows in the batch, n with it, and s the batch's average statistics under the current parameters::

            S <- S + (b / n)^0.6 (s - S)        parameters <- M-step of S

        Args:
            rows: the batch, in the units of this state.

        Returns:
            The next state.

        Source: Cappé & Moulines 2009, "On-line EM algorithm for latent data models", J. R. Statist. Soc. B 71.
        """
        fresh = expect(rows, self.parameters)
        batch = int(fresh.num_rows)
        step = (batch / (self.num_rows + batch)) ** _FORGETTING
        mixed = add(self.statistics.scaled(1 - step), fresh.scaled(step / batch))
        return dataclasses.replace(
            self,
            parameters=maximise(mixed, self.parameters, self.noise),
            statistics=mixed,
            num_rows=self.num_rows + batch,
        )
