"""Trying something on a model and a guide and leaving no trace: random state, parameters, gradients, buffers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyro
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def preserved(tensors: Iterable[Tensor] = ()) -> Iterator[set[nn.Module]]:
    """Within the context anything may run; after it the world is as it was.

    Restored are the random generators (torch on every device, NumPy, Python), Pyro's parameter store (which tensor has
    which name, not what is in it: nothing that runs here takes a step), the buffers and the training mode of every
    module that is called, and the tensors given.

    Args:
        tensors: Further tensors whose values are to be restored.

    Yields:
        The modules called, filled as they are.
    """
    store = pyro.get_param_store()
    # The dictionaries themselves are kept: a scope of the store, or whoever watches it, may hold them.
    tables = {
        name: (table := getattr(store, name), dict(table)) for name in ("_params", "_constraints", "_param_to_name")
    }
    random_state = pyro.util.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    values = [(t, t.detach().clone()) for t in tensors]
    buffers: dict[int, tuple[Tensor, Tensor]] = {}
    called: set[nn.Module] = set()

    def before_forward(module: nn.Module, arguments: object) -> None:
        if module in called:
            return
        called.add(module)
        for buffer in module.buffers(recurse=False):
            buffers.setdefault(id(buffer), (buffer, _copy(buffer)))

    hook = register_module_forward_pre_hook(before_forward)
    try:
        yield called
    finally:
        hook.remove()
        with torch.no_grad():
            for tensor, value in [*values, *buffers.values()]:
                tensor.detach().copy_(value)
        for name, (table, entries) in tables.items():
            table.clear()
            table.update(entries)
            setattr(store, name, table)
        pyro.util.set_rng_state(random_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _copy(tensor: Tensor) -> Tensor:
    # Not traced, should a trace be under way.
    with torch.utils._python_dispatch._disable_current_modes():
        return tensor.detach().clone()


def copied(tensor: Tensor) -> Tensor:
    """A copy with the same strides, of which machine code may have made numbers.

    What repeats entries in memory comes back itself: it can't be written to in place, and needs no copy.
    """
    if repeats(tensor):
        return tensor
    place = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return place.copy_(tensor)


def repeats(tensor: Tensor) -> bool:
    """Whether entries share memory, as expanded ones do."""
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
