"""Extrapolation of EM from its last steps: Anderson's, and over-relaxation where that fails.

EM's steps near its limit are those of a linear iteration. Anderson's combination of the last steps solves for the fixed
point of the iteration that they fit best. It doesn't know uphill from downhill, so a proposal must be checked by its
evidence. Where one was refused, the next is made of two steps only, which is what it takes to follow a single slow
direction (a noise variance on its way to 0, say); and where that is refused (near a saddle), stretched EM steps get
away faster than EM's own.

Sources: Walker & Ni 2011, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49; Henderson &
Varadhan 2019, "Damped Anderson acceleration with restarts and monotonicity control for accelerating EM", J. Comput.
Graph. Stat. 28; Salakhutdinov & Roweis 2003, "Adaptive overrelaxed bound optimization methods", ICML.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Differences between steps that are combined.
_MEMORY = 10
# Singular values of these differences below this fraction of the largest are rounding.
_RANK_TOLERANCE = 1e-10
_LONGEST_WAIT = 16
_LARGEST_STRETCH = 32.0


class Accelerator:
    """Proposes where to go next, and learns from how that went."""

    def __init__(self) -> None:
        self._memory = _MEMORY
        self._wait = 0
        self._penalty = 1
        self._stretch = 1.0
        self._relaxed = False
        self._points: list[Tensor] = []
        self._images: list[Tensor] = []

    def propose(self, point: Tensor, image: Tensor) -> Tensor | None:
        """Take in a step of EM and extrapolate.

        Args:
            point: the parameters as one vector, (any number,).
            image: where EM moves them.

        Returns:
            A vector that may be nearer to the maximum; None where there is nothing to propose yet.
        """
        self._points = [*self._points[-self._memory :], point]
        self._images = [*self._images[-self._memory :], image]
        self._relaxed = self._wait > 0
        if self._relaxed:
            self._wait -= 1
            self._stretch = min(2 * self._stretch, _LARGEST_STRETCH)
            return point + self._stretch * (image - point)
        if len(self._points) < 2:
            return None
        images = torch.stack(self._images)
        steps = images - torch.stack(self._points)
        differences = steps.diff(dim=0)
        # Of equal lengths, as steps shrink by orders of magnitude and the rank is judged relative to the largest.
        lengths = differences.norm(dim=1, keepdim=True).clamp(min=torch.finfo(steps.dtype).tiny)
        left, singular, right = torch.linalg.svd(differences / lengths, full_matrices=False)
        inverse = torch.where(singular > _RANK_TOLERANCE * singular[0], 1 / singular, 0.0)
        weights = left @ (inverse * (right @ steps[-1])) / lengths.squeeze(1)
        proposal: Tensor = image - weights @ images.diff(dim=0)
        return proposal

    def accepted(self) -> None:
        """The proposal was better than what came before."""
        if not self._relaxed:
            self._memory = min(_MEMORY, self._memory + 1)
            self._penalty = 1
            self._stretch = 1.0

    def refused(self) -> None:
        """The proposal was worse: EM's own step is taken."""
        if self._relaxed:
            self._stretch = max(1.0, self._stretch / 4)
            return
        self._points, self._images = [], []
        if self._memory > 1:
            self._memory = 1
        else:
            self._wait = self._penalty
            self._penalty = min(2 * self._penalty, _LONGEST_WAIT)
