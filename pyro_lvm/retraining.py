"""Training a pair again and again on other tables of one size, each time from where it stands."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_lvm.batches import make_batches
from pyro_lvm.checking.running import quiet
from pyro_lvm.errors import TrainingError
from pyro_lvm.fitting import few_threads, fresh_elbo
from pyro_lvm.pair import Pair
from pyro_lvm.progress import Reporter
from pyro_lvm.svi import FusedOptim
from pyro_lvm.training import Trainer

# As `fit` has it.
_BATCH_SIZE, _LEARNING_RATE = 256, 0.01


class Retraining:
    """Trains a pair on tables of one size, a budget each, as :func:`pyro_lvm.fit` would with no option but ``steps``.

    Steps are traced and compiled once for all tables.

    Args:
        pair: The pair, trained in place; its parameters exist.
        steps: Gradient steps a table.
        times: Tables in all.

    Raises:
        TrainingError: ``steps`` isn't positive.
    """

    def __init__(self, pair: Pair, steps: int, times: int) -> None:
        if steps < 1:
            raise TrainingError(f"steps={steps}: expected a whole number from 1 up")
        self._pair, self._steps, self._times = pair, steps, times
        self._trainer: Trainer | None = None

    def train(self, rows: Tensor) -> None:
        """Train the pair on a table.

        Args:
            rows: Rows as the pair sees them, shape (rows, ...), NaN where missing.

        Raises:
            PairError: The pair has nothing to train.
            TrainingError: The loss is not finite.
        """
        pair, batches = self._pair, make_batches(rows, _BATCH_SIZE, self._pair.device)
        with quiet("pyro.infer.elbo"), few_threads(pair, batches.batch_size), torch.enable_grad():
            if self._trainer is None:
                self._trainer = Trainer(
                    pair=pair,
                    batches=batches,
                    validation=None,
                    lr=float(getattr(pair.model, "learning_rate", _LEARNING_RATE)),
                    decay=getattr(pair.model, "decay", "exponential"),
                    make_elbo=lambda: fresh_elbo(pair.elbo, 1),
                    make_optim=FusedOptim,
                    averaging=True,
                    patience=1,
                    callbacks=(),
                    after_step=lambda trainer: None,
                    schedules=self._times,
                )
                self._trainer.prepare("both")
            self._trainer.batches = batches
            self._trainer.run_schedule(self._steps, Reporter("", enabled=False))
