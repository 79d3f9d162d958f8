"""EM on a stream of batches, each seen once: statistics that forget what early batches got wrong."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from pyro_lvm.em.expectation import Statistics, add, expect
from pyro_lvm.em.maximization import maximise
from pyro_lvm.em.moments import Moments
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
        moments: of all rows so far.
    """

    origin: Tensor
    unit: Tensor
    noise: NoiseModel
    parameters: Parameters
    statistics: Statistics
    moments: Moments

    def after(self, rows: Rows, moments: Moments, unit: Tensor, noise: NoiseModel) -> Stepwise:
        """Take in one more batch.

        With b rows in the batch, n with it, and s the batch's average statistics under the current parameters::

            S <- S + (b / n)^0.6 (s - S)        parameters <- M-step of S

        Args:
            rows: the batch, in the units of this state.
            moments: of all rows, the batch's included.
            unit: what they make the unit, (data_dim,); this state keeps its own.
            noise: the noise variances that are allowed in that unit, as a floor from the first batch alone would be
                far off where a feature hardly varies in it.

        Returns:
            The next state; the same one where the batch has nothing observed.

        Source: Cappé & Moulines 2009, "On-line EM algorithm for latent data models", J. R. Statist. Soc. B 71.
        """
        if next(rows.blocks(), None) is None:
            return self
        fresh = expect(rows, self.parameters)
        batch = int(fresh.num_rows)
        step = (batch / (moments.num_rows - moments.num_empty)) ** _FORGETTING
        mixed = add(self.statistics.scaled(1 - step), fresh.scaled(step / batch))
        own_noise = dataclasses.replace(noise, floor=noise.floor * (unit / self.unit).square())
        return dataclasses.replace(
            self,
            noise=own_noise,
            parameters=maximise(mixed, self.parameters, own_noise),
            statistics=mixed,
            moments=moments,
        )
