"""A compiled step as a CUDA graph: one launch instead of one for each kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_lvm.compiled.program import Step

_WARM_UP = 3


class CapturedStep:
    """A step that was captured once and is replayed on the same memory.

    What lasts from step to step is where it always was; a batch is copied to where the capture read one. PyTorch's
    generator moves its Philox offset on with every replay, so that noise is fresh and the same as without a capture.

    Args:
        step: The compiled step; all its tensors must be on one CUDA device.
        lasting, batch: Its inputs. The lasting ones are left as they were.

    Raises:
        RuntimeError: The step can't be captured (it touches the CPU, or waits for the device).
    """

    def __init__(self, step: Step, lasting: Sequence[Tensor], batch: Sequence[Tensor]) -> None:
        self._batch = [t.clone() for t in batch]
        self._pointers = [t.data_ptr() for t in lasting]
        before = [t.clone() for t in lasting]
        random_state = torch.cuda.get_rng_state(batch[0].device)
        stream = torch.cuda.Stream(batch[0].device)
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream), torch.no_grad():
                for _ in range(_WARM_UP):
                    step(*lasting, *self._batch)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.no_grad(), torch.cuda.graph(self._graph):
                (self._loss,) = step(*lasting, *self._batch)
        finally:
            with torch.no_grad():
                for tensor, value in zip(lasting, before, strict=True):
                    tensor.copy_(value)
            torch.cuda.set_rng_state(random_state, batch[0].device)

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Take a step; the loss is a copy, as the next replay overwrites the captured one."""
        for place, tensor in zip(self._batch, inputs[len(self._pointers) :], strict=True):
            place.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return (self._loss.clone(),)

    def fits(self, lasting: Sequence[Tensor]) -> bool:
        """Whether the lasting inputs are still in the memory that was captured."""
        return [t.data_ptr() for t in lasting] == self._pointers


def can_capture(lasting: Sequence[Tensor], batch: Sequence[Tensor]) -> bool:
    """Whether there is a batch, and all tensors are on one CUDA device."""
    devices = {t.device for t in (*lasting, *batch)}
    return bool(batch) and len(devices) == 1 and next(iter(devices)).type == "cuda"
