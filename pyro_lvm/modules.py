"""What the zoo's models and guides have in common: parameters of their own, and a start from data."""

from __future__ import annotations

import itertools

import torch
from pyro.nn import PyroModule
from torch import Tensor

_serial = itertools.count()


class PairModule(PyroModule):
    """A :class:`~pyro.nn.PyroModule` whose parameters can never meet another module's in Pyro's global store.

    Pyro files a module's parameters under their attribute names. Two modules with an attribute of the same name would
    silently share its value, so every instance files its own under a name of its own.

    Attributes:
        started: Whether the parameters hold something worth keeping (a start from data, a load, training);
            :func:`pyro_lvm.fit` starts what is not.
    """

    started: Tensor

    def __init__(self) -> None:
        super().__init__(name=f"{type(self).__name__}_{next(_serial)}")
        self.register_buffer("started", torch.tensor(False))
