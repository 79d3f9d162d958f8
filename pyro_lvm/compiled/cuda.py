"""A compiled step as a CUDA graph: one launch instead of one for each kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_lvm.compiled.preserving import copied, repeats
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
        RuntimeError: The step can't be captured (it waits for the device, or its batch repeats memory).
    """

    def __init__(self, step: Step, lasting: Sequence[Tensor], batch: Sequence[Tensor]) -> None:
        if any(repeats(t) for t in batch):
            raise RuntimeError("a batch whose entries share memory has no place that it could be copied to")
        # Strides are numbers in the compiled code: the copies have the batch's own.
        self._batch = [copied(t) for t in batch]
        self._pointers = [t.data_ptr() for t in lasting]
        device = batch[0].device
        before = [(t, t.clone()) for t in lasting if not repeats(t)]
        random_state = torch.cuda.get_rng_state(device)
        with torch.cuda.device(device), torch.no_grad():
            try:
                self._warm_up(step, lasting)
                self._graph = torch.cuda.CUDAGraph()
                # Another thread's calls, as of a loader that pins memory, are no part of the capture and don't end it.
                with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                    (self._loss,) = step(*lasting, *self._batch)
            finally:
                for tensor, value in before:
                    tensor.copy_(value)
                torch.cuda.set_rng_state(random_state, device)

    def _warm_up(self, step: Step, lasting: Sequence[Tensor]) -> None:
        # What is done once (kernels are loaded and tuned, libraries make room) must not be captured; on a stream of its
        # own, as the capture will be.
        present, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(present)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                step(*lasting, *self._batch)
        present.wait_stream(stream)

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
