"""The contract check as tests that a pair of one's own inherits."""

from __future__ import annotations

import unittest
from typing import Any, ClassVar

from pyro.infer import ELBO

from pyro_lvm.checking import CONTRACT, CheckResult, check_pair
from pyro_lvm.pair import Half

# What errors in the earlier items keep the check from looking at.
_LATER = ("scale", "values", "missing", "gradients", "batches", "rows", "prediction", "saving")


class PairContract:
    """One test for each item of the contract; a subclass says what the pair is, and pytest collects it.

    Warnings fail a test as errors do: what is meant to be so is named in ``allowed``.

    Attributes:
        allowed: Codes of findings that are accepted.
        num_rows: Rows N of the whole data set, where :meth:`make_rows` gives a batch of it.
        elbo: The Pyro ELBO that the pair is trained with; None for the one that it asks for, else ``Trace_ELBO``.

    Example:
        In ``test_my_pair.py``, for plain ``pytest``::

            import torch
            from my_pair import Guide, Model
            from pyro_lvm.testing import PairContract

            class TestMyPair(PairContract):
                allowed = {"not-amortized"}

                def make_pair(self):
                    return Model(data_dim=5), Guide(data_dim=5)

                def make_rows(self):
                    return torch.randn(100, 5)
    """

    __test__ = False
    allowed: ClassVar[set[str] | frozenset[str]] = frozenset()
    num_rows: ClassVar[int | None] = None
    elbo: ClassVar[ELBO | type[ELBO] | None] = None
    _result: ClassVar[CheckResult | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # What is imported into a test's file is not a test there; what is derived from it is.
        cls.__test__ = True
        cls._result = None

    def make_pair(self) -> tuple[Half, Half]:
        """A fresh model and its guide."""
        raise NotImplementedError(f"{type(self).__name__} needs make_pair(self), which returns (model, guide)")

    def make_rows(self) -> Any:
        """Rows to check them on, shape (rows, ...)."""
        raise NotImplementedError(f"{type(self).__name__} needs make_rows(self), which returns a tensor (rows, ...)")

    def _assert_kept(self, item: str) -> None:
        cls = type(self)
        if cls._result is None:
            model, guide = self.make_pair()
            cls._result = check_pair(model, guide, self.make_rows(), num_rows=self.num_rows, elbo=self.elbo)
        broken = [f for f in cls._result if f.code in CONTRACT[item] and f.code not in self.allowed]
        if broken:
            raise AssertionError("\n".join(str(finding) for finding in broken))
        if not cls._result.complete and item in _LATER:
            raise unittest.SkipTest("not looked at: another test of this contract has to pass first")

    def test_halves_take_rows(self) -> None:
        """Both halves can be called with a batch of rows, and leave it as it is."""
        self._assert_kept("halves")

    def test_sites_match(self) -> None:
        """The guide draws the model's latents, and the model observes something."""
        self._assert_kept("sites")

    def test_plates_match(self) -> None:
        """Both halves have the same plates, and the rows are in one."""
        self._assert_kept("plates")

    def test_shapes_are_rows(self) -> None:
        """Each log-probability is one number a row, and a latent has one shape in both halves."""
        self._assert_kept("shapes")

    def test_supports_fit(self) -> None:
        """The guide draws what the prior allows."""
        self._assert_kept("supports")

    def test_rows_are_scaled(self) -> None:
        """Each row counts N/B times."""
        self._assert_kept("scale")

    def test_values_are_finite(self) -> None:
        """Parameters are in their domain, rows in their support, log-probabilities finite."""
        self._assert_kept("values")

    def test_holes_are_taken(self) -> None:
        """Missing entries are taken, where the rows have some or the guide says so."""
        self._assert_kept("missing")

    def test_gradients_reach_parameters(self) -> None:
        """Every parameter that matters receives a finite gradient."""
        self._assert_kept("gradients")

    def test_any_number_of_rows(self) -> None:
        """A smaller batch and a single row work as well."""
        self._assert_kept("batches")

    def test_rows_stand_alone(self) -> None:
        """What is computed for a row depends on it, and on no other row."""
        self._assert_kept("rows")

    def test_data_can_be_drawn(self) -> None:
        """The model can draw what it observes."""
        self._assert_kept("prediction")

    def test_saving_keeps_the_pair(self) -> None:
        """The pair that comes back from a file is the one that was saved."""
        self._assert_kept("saving")

    def test_check_is_complete(self) -> None:
        """Every part of the check could be carried out."""
        self._assert_kept("check")
