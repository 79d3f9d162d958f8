"""Holding a graph against eager Pyro under the same noise: the loss, every gradient, everything a step changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.ops.provenance import detach_provenance
from torch import Tensor

from pyro_lvm.compiled.preserving import copied, preserved
from pyro_lvm.compiled.program import Step
from pyro_lvm.compiled.tracing import LossAndGrads, Traced
from pyro_lvm.errors import PyroLvmError

# In units of the rounding error: what two orders of the same sums may differ by, relative to a tensor's largest entry
# and to the largest entry of all tensors. Without the second, a gradient that is zero but for rounding never agrees.
_OWN = 1e4
_WHOLE = 3e2
_LOSS = 1e3
# A gradient near 0 may be what is left of terms as large as the loss, as a scale's is at its best value.
_TERMS = 30.0


class Disagreement(PyroLvmError):
    """A graph gives something else than eager Pyro; the message says what."""


def verify_traced(
    traced: Traced,
    loss_and_grads: LossAndGrads,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch: Sequence[Tensor],
    seed: int,
    precision: torch.dtype | None = None,
) -> None:
    """Compare a traced loss with eager Pyro's under the noise of ``seed``; nothing is changed by it.

    Args:
        traced: The graph.
        loss_and_grads, model, guide, args, kwargs: What it was traced from.
        batch: The arguments' tensors.
        seed: Of the noise.
        precision: Lower one of the matrix products, if there is one.

    Raises:
        Disagreement: The loss, a gradient, or something that the step changes differs.
    """
    num_gradients = len(traced.trained)
    with preserved(traced.changed), torch.no_grad():
        pyro.set_rng_seed(seed)
        try:
            loss, *values = traced.graph(*batch, *traced.lifted)
        except RuntimeError as error:
            raise Disagreement(f"the graph fails where eager Pyro doesn't: {' '.join(str(error).split())}") from error
        changed = [t.detach().clone() for t in traced.changed]
    before = [p.grad for p in traced.parameters]
    store = pyro.get_param_store()
    names = [next(n for n, t in store._params.items() if detach_provenance(t) is old) for old in traced.written]
    try:
        for p in traced.parameters:
            p.grad = None
        with preserved(traced.changed), torch.enable_grad():
            pyro.set_rng_seed(seed)
            eager_loss = loss_and_grads(model, guide, *args, **kwargs)
            eager_changed = [t.detach().clone() for t in traced.changed]
            eager_written = [detach_provenance(store._params[name]).detach() for name in names]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in traced.trained]
    finally:
        for p, gradient in zip(traced.parameters, before, strict=True):
            p.grad = gradient
    eager_loss = torch.as_tensor(eager_loss, dtype=loss.dtype, device=loss.device)
    scale = 1 + float(eager_loss.abs()) if torch.isfinite(eager_loss) else 1.0
    if not _close(loss, eager_loss, _LOSS * _rounding(loss, precision) * scale):
        raise Disagreement(f"the loss is {float(loss):.9g}, eager Pyro's {float(eager_loss):.9g}")
    units = [max(1.0, _largest(p)) for p in traced.trained]
    _compare("gradient", values[:num_gradients], gradients, precision, terms=[_TERMS * scale / unit for unit in units])
    _compare("value in the parameter store", values[num_gradients:], eager_written, precision)
    _compare("running statistic", changed, eager_changed, precision)


def verify_compiled(
    compiled: Step,
    graph: Step,
    lasting: Sequence[Tensor],
    batch: Sequence[Tensor],
    momenta: slice,
    num_parameters: int,
    seed: int,
    precision: torch.dtype | None = None,
) -> None:
    """Compare a compiled whole step with the graph that it was compiled from, on copies of everything.

    Args:
        compiled, graph: The two.
        lasting, batch: Their inputs; the first ``num_parameters`` are parameters.
        momenta: Where among the lasting inputs momenta are.
        num_parameters: How many are parameters.
        seed: Of the noise.
        precision: Lower one of the matrix products, if there is one.

    Raises:
        Disagreement: The loss or something that the step changes differs.
    """
    after = []
    for step in (compiled, graph):
        copies = [copied(t) for t in lasting]
        with preserved(), torch.no_grad():
            pyro.set_rng_seed(seed)
            (loss,) = step(*copies, *batch)
        after.append((loss, copies))
    (loss, ours), (expected, theirs) = after
    scale = 1 + float(expected.abs()) if torch.isfinite(expected) else 1.0
    if not _close(loss, expected, _LOSS * _rounding(expected, precision) * scale):
        raise Disagreement(f"the compiled loss is {float(loss):.9g}, the traced one {float(expected):.9g}")
    _compare("compiled momentum", ours[momenta], theirs[momenta], precision)
    # Adam turns the rounding of a vanishing gradient into a whole step: parameters can be held to the same size only.
    _compare("compiled state", ours[momenta.stop :], theirs[momenta.stop :], precision, loose=True)
    for start, one, other in zip(lasting, ours[:num_parameters], theirs[:num_parameters], strict=False):
        moved, expected_move = float((one - start).norm()), float((other - start).norm())
        if not 0.5 * expected_move - 1e-30 <= moved <= 2 * expected_move + 1e-30:
            raise Disagreement(
                f"a compiled step moves a parameter by {moved:.3g}, the traced one by {expected_move:.3g}"
            )


def _compare(
    what: str,
    ours: Sequence[Tensor],
    theirs: Sequence[Tensor],
    precision: torch.dtype | None,
    *,
    loose: bool = False,
    terms: Sequence[float] | None = None,
) -> None:
    largest = max((_largest(t) for t in theirs), default=0.0)
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        rounding = _rounding(other, precision) * (100 if loose else 1)
        least = 0.0 if terms is None else terms[index]
        if not _close(one, other, rounding * (_OWN * _largest(other) + _WHOLE * largest + least)):
            worst = _largest(one.double() - other.double())
            raise Disagreement(
                f"{what} {index} of shape {tuple(other.shape)} differs by {worst:.3g} from eager Pyro's, whose largest "
                f"entry is {_largest(other):.3g}"
            )


def _largest(tensor: Tensor) -> float:
    finite = tensor.detach()[torch.isfinite(tensor)] if tensor.is_floating_point() else tensor.double()
    return float(finite.abs().max()) if finite.numel() else 0.0


def _rounding(tensor: Tensor, precision: torch.dtype | None) -> float:
    if not tensor.is_floating_point():
        return 0.0
    eps = torch.finfo(tensor.dtype).eps
    # Of a lower precision only as much as is left when many products are summed in a higher one.
    return eps if precision is None else max(eps, torch.finfo(precision).eps / 1_500)


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.double(), other.double(), rtol=0.0, atol=tolerance, equal_nan=True
    )
