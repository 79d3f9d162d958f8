"""Prediction and saving: drawing data from the model, and coming back from a file as the same pair."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from pyro_lvm import catalogue
from pyro_lvm.checking.findings import Finding
from pyro_lvm.checking.rows import holds_prototype
from pyro_lvm.checking.running import Runner, attempt, first_line
from pyro_lvm.checking.sites import observed
from pyro_lvm.checking.state import Snapshot, perturb
from pyro_lvm.checking.view import View
from pyro_lvm.errors import ArtifactError, PairError

_SAME_LOSS = 1e-5


def check_uncondition(view: View) -> Iterator[Finding]:
    """Whether the model can draw what it observes, given latents."""
    run = view.runner.run(view.x, replay=view.joint, uncondition=True, roles=("model",))
    error = run.errors.get("model")
    if error is not None:
        names = list(observed(view.large.traces["model"]))
        yield Finding(
            "uncondition-fails",
            "warning",
            next(iter(names), None),
            f"the model can't draw what it observes: under poutine.uncondition it raises {first_line(error)}; nothing "
            "can be predicted until the likelihood can be sampled and the rest of the model takes its draws",
        )


def check_saving(view: View, found: Snapshot) -> Iterator[Finding]:
    """Whether the pair, saved after a run and loaded into one as it was before, has the same ELBO.

    Args:
        view: The pair's traces.
        found: The state in which the pair was found, before anything ran.
    """
    runner, pair = view.runner, view.runner.pair
    prototype = holds_prototype(pair.guide)
    half = len(view.x) // 2
    before, after = (view.x, view.x) if prototype else (view.x[:half], view.x[half:])
    expected, error = _loss_after(runner, before, after)
    changed = found.changed_attributes()
    if error is not None or not math.isfinite(expected):
        runner.kept.restore()
        return
    data, error = attempt(lambda: _to_bytes(pair.state_dict()))
    if error is not None:
        runner.kept.restore()
        yield _lost(None, f"saving raises {first_line(error)}")
        return
    state = load_tensors(data)
    try:
        found.restore()
        if prototype:
            attempt(lambda: runner.materialize(after))
        perturb([t for _, t in pair.named_parameters()], 1.0)
        _, error = attempt(lambda: _load(runner, state, after))
        if error is not None:
            yield _lost(
                None,
                f"loading into the pair as it was before it ran raises {first_line(error)}; make every parameter in "
                "__init__, not when it is first used",
            )
            return
        loaded, _ = runner.loss(after, restore=False)
        if not math.isclose(loaded, expected, rel_tol=_SAME_LOSS):
            yield _lost(
                next(iter(changed), None),
                f"the loss is {expected:.6g} before saving and {loaded:.6g} after loading: something that a run "
                "changed is neither parameter nor buffer; register it with register_buffer or pyro.param",
            )
            return
    finally:
        runner.kept.restore()
    yield from _check_rebuilt(runner, state, after, expected)


def _check_rebuilt(runner: Runner, state: dict[str, Tensor], x: Tensor, expected: float) -> Iterator[Finding]:
    """The same for a pair that is built again from its configuration, where it has one."""
    if not runner.pair.config:
        return
    try:
        built = catalogue.rebuild(runner.pair.config)
    except PairError:
        return  # a pair of a file is not run unasked
    other = Runner(built.to(runner.pair.device), runner.num_rows, runner.elbo)
    _, error = attempt(lambda: _load(other, state, x))
    if isinstance(error, ArtifactError):
        yield _lost(None, str(error))
    elif error is None:
        loaded, _ = other.loss(x, restore=False)
        if not math.isclose(loaded, expected, rel_tol=_SAME_LOSS):
            yield _lost(
                None,
                f"the loss is {expected:.6g} before saving and {loaded:.6g} in the pair that its configuration builds: "
                "a value given to the pair is neither in its configuration nor a buffer; register it with "
                "register_buffer",
            )


def _loss_after(runner: Runner, before: Tensor, after: Tensor) -> tuple[float, Exception | None]:
    """The loss on some rows once others have run, which may have left their mark."""
    runner.run(before, restore=False)
    return runner.loss(after, restore=False)


def _to_bytes(state: dict[str, Tensor]) -> bytes:
    data: bytes = save_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()})
    return data


def _load(runner: Runner, state: dict[str, Tensor], x: Tensor) -> None:
    with torch.no_grad():
        runner.pair.load_state_dict(state)
    # Parameters that pyro.param makes get their values once they exist.
    runner.materialize(x)


def _lost(site: str | None, what: str) -> Finding:
    return Finding("state-not-saved", "error", site, what)
