"""The contract as inherited tests: collected when subclassed, passed by a sound pair, failed by a broken one."""

import pytest

from pyro_lvm.checking import CONTRACT
from pyro_lvm.testing import PairContract

pytest_plugins = ["pytester"]

PAIR = """
import pyro
import pyro.distributions as dist
import torch
from pyro_lvm import data_plate
from pyro_lvm.testing import PairContract


def model(x):
    loadings = pyro.param("loadings", lambda: torch.randn(2, 4))
    with data_plate(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ loadings, 1.0).to_event(1), obs=x)


def guide(x):
    slope = pyro.param("slope", torch.zeros(4, 2))
    with data_plate(x):
        pyro.sample("z", dist.Normal(x @ slope, 1.0).to_event(1))


def fixed_guide(x):
    loc = pyro.param("loc", torch.zeros(2))
    with data_plate(x):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def empty_guide(x):
    pass


class Rows:
    def make_rows(self):
        return torch.randn(40, 4)
"""


def run(pytester: pytest.Pytester, classes: str) -> pytest.RunResult:
    pytester.makepyfile(PAIR + classes)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-q")


def test_a_sound_pair_passes(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
class TestMyPair(Rows, PairContract):
    def make_pair(self):
        return model, guide
""",
    )
    result.assert_outcomes(passed=len(CONTRACT))


def test_the_contract_itself_is_not_collected(pytester: pytest.Pytester) -> None:
    run(pytester, "\nPairContract.__test__\n").assert_outcomes()


def test_a_broken_pair_fails_where_it_is_broken(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
class TestMyPair(Rows, PairContract):
    def make_pair(self):
        return model, empty_guide
""",
    )
    # What can't be told before the guide draws the latent is skipped, not passed.
    result.assert_outcomes(passed=5, failed=1, skipped=8)
    result.stdout.fnmatch_lines(["*test_sites_match*", "*AssertionError: error: latent-missing-in-guide at 'z'*"])


def test_a_warning_fails_unless_it_is_allowed(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
class TestStrict(Rows, PairContract):
    def make_pair(self):
        return model, fixed_guide


class TestLenient(TestStrict):
    allowed = {"not-amortized"}
""",
    )
    result.assert_outcomes(passed=2 * len(CONTRACT) - 1, failed=1)
    result.stdout.fnmatch_lines(["*test_rows_stand_alone*", "*warning: not-amortized at 'z'*"])


def test_elbo_and_number_of_rows_are_taken_into_account(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
from pyro.infer import RenyiELBO


class TestMyPair(Rows, PairContract):
    elbo = RenyiELBO
    num_rows = 400

    def make_pair(self):
        return model, guide
""",
    )
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["*importance-weights-on-minibatch*"])


def test_a_forgotten_factory_says_what_is_missing(pytester: pytest.Pytester) -> None:
    result = run(pytester, "\nclass TestMyPair(PairContract):\n    pass\n")
    assert result.parseoutcomes() == {"failed": len(CONTRACT)}
    result.stdout.fnmatch_lines(["*TestMyPair needs make_pair(self), which returns (model, guide)*"])


@pytest.mark.parametrize("item", CONTRACT)
def test_every_item_has_its_test(item: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Recorder(PairContract):
        def _assert_kept(self, item: str) -> None:
            asked.append(item)

    tests = [name for name in dir(Recorder) if name.startswith("test_")]
    for name in tests:
        getattr(Recorder(), name)()
    assert asked.count(item) == 1
    assert len(tests) == len(CONTRACT)
