"""One kind of step that is ready to be taken: for arguments of one shape, on the tensors that it was made for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.ops.provenance import detach_provenance
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_lvm.compiled.averaging import PolynomialAverage
from pyro_lvm.compiled.cuda import CapturedStep, can_capture
from pyro_lvm.compiled.optimizers import Binding
from pyro_lvm.compiled.program import Step, lasting_inputs
from pyro_lvm.compiled.tracing import Traced
from pyro_lvm.compiled.watching import Watch
from pyro_lvm.plate import Feed, current_feed


def key_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], list[Tensor]]:
    """What a graph is made for, and the tensors that it takes.

    Returns:
        Shapes, strides, types and devices of tensors and the values of everything else; the tensors.
    """
    if not kwargs and all(type(a) is Tensor for a in args):
        return tuple((a.shape, a.stride(), a.dtype, a.device, a.requires_grad) for a in args), list(args)
    leaves, structure = pytree.tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return (structure, *map(_leaf_key, leaves)), tensors


def _leaf_key(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad, type(leaf)
    if isinstance(leaf, (bool, int, float, str, type(None))):
        # 1, 1.0 and True are equal, and -0.0 is 0.0; a model may tell them apart.
        return type(leaf), repr(leaf)
    return type(leaf), id(leaf)


class Entry:
    """A traced step, the compiled one if there is one, and all that both rely on.

    Args:
        traced: The loss and its gradients.
        roots: What runs: model, guide, and arguments that are no tensors.
    """

    def __init__(self, traced: Traced, roots: Sequence[Any]) -> None:
        self.traced = traced
        self.steps = 0
        self.compiled: Step | None = None
        self.captured: CapturedStep | None = None
        self.binding: Binding | None = None
        self.average: PolynomialAverage | None = None
        self.lasting: list[Tensor] = []
        # Why there is no compiled step, or no captured one, once that is known for good.
        self.stays_traced = ""
        self.stays_launched = ""
        self._watch = Watch(roots, traced.modules)
        self._feed: Feed = current_feed()
        self._dtype = torch.get_default_dtype()
        store = pyro.get_param_store()
        held = {id(p) for p in (*traced.parameters, *traced.written)}
        self._named = [(name, p) for name, p in store._params.items() if id(detach_provenance(p)) in held]
        self._parameters = traced.parameters
        self._memory = [p.data_ptr() for p in self._parameters]
        self._training = [p.requires_grad for p in self._parameters]

    def changed(self) -> str | None:
        """What is no longer as it was when the step was traced; None if all is."""
        if [p.data_ptr() for p in self._parameters] != self._memory:
            return "the memory of a parameter"
        if [p.requires_grad for p in self._parameters] != self._training:
            return "requires_grad of a parameter"
        params = pyro.get_param_store()._params
        for name, parameter in self._named:
            if params.get(name) is not parameter:
                return f"the parameter '{name}'"
        feed = current_feed()
        if feed is not self._feed:
            if feed != self._feed:
                return "the data set that batches come from"
            self._feed = feed
        if torch.get_default_dtype() is not self._dtype:
            return "the default dtype"
        seen = self._watch.changed()
        return None if seen is None else f"'{seen}'"

    def bind(self, binding: Binding, average: PolynomialAverage | None) -> None:
        """Let the compiled step work on an optimizer's and an average's tensors."""
        self.binding, self.average = binding, average
        self.lasting = lasting_inputs(self.traced, binding, average)
        if self.captured is not None and not self.captured.fits(self.lasting):
            self.captured = None

    def capture(self, batch: Sequence[Tensor]) -> None:
        """Capture the compiled step as a CUDA graph, where it is one for a CUDA device alone."""
        if self.compiled is not None and self.captured is None and can_capture(self.lasting, batch):
            try:
                self.captured = CapturedStep(self.compiled, self.lasting, batch)
            except RuntimeError as error:
                self.stays_launched = " ".join(str(error).split())[:200]

    def run_compiled(self, batch: Sequence[Tensor]) -> Tensor:
        """Take a whole step; returns the loss."""
        assert self.compiled is not None
        assert self.binding is not None
        self.binding.advance()
        with torch.no_grad():
            step = self.captured or self.compiled
            loss: Tensor = step(*self.lasting, *batch)[0]
        return loss

    def run_traced(self, batch: Sequence[Tensor], optim: Callable[[Any], Any], trainable: Any) -> Tensor:
        """Loss and gradients by the graph, the step by the optimizer itself; returns the loss."""
        traced = self.traced
        with torch.no_grad():
            loss: Tensor
            loss, *values = traced.graph(*batch, *traced.lifted)
            for parameter in traced.parameters:
                parameter.grad = None
            # Memory of their own, laid out as the parameters: fused optimizers take that for granted, and clipping
            # changes gradients in place, which may be views of each other or of the batch here.
            gradients = [torch.empty_like(p) for p in traced.trained]
            torch._foreach_copy_(gradients, values[: len(gradients)])
            for parameter, gradient in zip(traced.trained, gradients, strict=True):
                parameter.grad = gradient
            for old, new in zip(traced.written, values[len(traced.trained) :], strict=True):
                old.copy_(new)
        optim([p for p in traced.parameters if trainable is None or trainable(p)])
        for parameter in traced.parameters:
            parameter.grad = None
        return loss
