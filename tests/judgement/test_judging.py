"""Whole judgements of pairs whose exact posterior is known, and of pairs that not every check can take."""

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro.distributions import Categorical, Normal
from torch import Tensor

from pyro_lvm import Pair, data_plate, judge, observe
from pyro_lvm.errors import DataError
from pyro_lvm.guides import SharedLoadings
from pyro_lvm.judgement import Judgement
from pyro_lvm.judgement.gathering import contract, usable_rows
from pyro_lvm.models import BayesianPCA

NAMES = ("contract", "evidence", "posterior", "family", "encoder", "overfitting", "weights", "latents", "calibration")


Made = Callable[[], tuple[Pair, Tensor, Tensor]]


def judged(pair: Pair, x: Any, held_out: Any = None, **options: Any) -> Judgement:
    return judge(pair, x, held_out, progress=False, **options)


def test_an_exact_guide_is_good_on_every_line(ppca: Made) -> None:
    """Wrong: a page that finds fault with what is right; oracle: the guide is the closed-form posterior."""
    pair, x, held_out = ppca()
    found = judged(pair, x, held_out)
    assert {verdict.name: verdict.level for verdict in found.verdicts} == dict.fromkeys(
        (*NAMES[:6], "model", *NAMES[6:], "realism"), "good"
    ), str(found)
    assert found.level == "good"
    assert found.summary.startswith("The posterior is right")
    assert all(verdict.advice == "" for verdict in found.verdicts)


def shared() -> tuple[Pair, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(40, 5)
    pair = Pair(BayesianPCA(5, 2), SharedLoadings(5, 2))
    pair.start(x)
    return pair, x


def components() -> tuple[Pair, Tensor]:
    """Two clusters, the component drawn by the guide from its exact posterior."""
    means = torch.tensor([-1.5, 1.5])

    def model(x: Tensor) -> None:
        with data_plate(x):
            t = pyro.sample("t", Categorical(torch.tensor([0.3, 0.7])))
            observe("x", Normal(means[t][:, None], 1.0), x)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            logits = torch.tensor([0.3, 0.7]).log() + Normal(means, 1.0).log_prob(x)
            pyro.sample("t", Categorical(logits=logits))

    generator = torch.Generator().manual_seed(0)
    t = torch.bernoulli(torch.full((300, 1), 0.7), generator=generator)
    return Pair(model, guide), 3 * t - 1.5 + torch.randn(300, 1, generator=generator)


def doubled() -> tuple[Pair, Tensor]:
    """A model that observes half of what it is given: its draws make no rows."""

    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("root", Normal(z, 1.0), obs=x[:, 0].abs().sqrt())

    def guide(x: Tensor) -> None:
        weight = pyro.param("weight", torch.tensor(0.3))
        with data_plate(x):
            pyro.sample("z", Normal(weight * x[:, 0].abs().sqrt(), 0.7))

    return Pair(model, guide), torch.randn(60, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("make", "unknown", "known", "reason"),
    [
        (shared, "calibration", "latents", "rows share"),
        (components, "latents", "calibration", "no continuous vector latent"),
        (doubled, "calibration", "encoder", "root"),
    ],
    ids=["shared latents", "discrete alone", "not to be simulated"],
)
def test_what_a_check_cannot_take_is_said(make: Any, unknown: str, known: str, reason: str) -> None:
    """Wrong: a crash, or silence, where one check doesn't apply."""
    found = judged(*make(), num_rows=4)
    assert found["contract"].level == "good"
    assert found[unknown].level == "unknown"
    assert found[known].level != "unknown", str(found)
    reasons = " ".join(verdict.found for verdict in found.verdicts if verdict.level == "unknown")
    assert reason in reasons
    assert "this check raised" not in reasons, str(found)
    assert unknown in found.summary.partition("Not known: ")[2]

    if make is components:
        # Its guide is exact, and as nothing bounds the evidence from above, that isn't claimed.
        assert {found[name].level for name in ("calibration", "weights", "encoder")} == {"good"}
        assert found["posterior"].level == "unknown"
        assert found["posterior"].figures["kl"] == pytest.approx(0, abs=1e-5)


def test_the_same_seed_says_the_same_and_leaves_no_mark() -> None:
    """Wrong: a verdict can't be looked at again; or judging trains, or takes the caller's random numbers."""
    pair, x = doubled()
    pair.materialize(x[:2])
    before, state = {name: value.clone() for name, value in pair.state_dict().items()}, torch.get_rng_state()
    one, other = (judged(pair, x, num_rows=2) for _ in range(2))
    assert one.to_json() == other.to_json()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


def test_a_broken_contract_ends_it(ppca: Made) -> None:
    """Wrong: figures of a pair whose guide forgets a latent, which keeps its prior in silence."""
    pair, x, _ = ppca()

    def nothing(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("w", Normal(torch.zeros(len(x)), 1.0))

    found = judged(Pair(pair.model, nothing), x)
    assert [verdict.name for verdict in found.verdicts] == ["contract"]
    assert found["contract"].level == found.level == "bad"
    assert "'z'" in found["contract"].found
    assert "breaks its contract" in found.summary
    with pytest.raises(KeyError, match="expected one of contract"):
        found["encoder"]


@pytest.mark.usefixtures("no_annealing")
def test_what_raises_on_the_way_is_unknown(ppca: Made) -> None:
    """Wrong: a figure that can't be worded ends the judgement, or a line is missing without a word."""
    pair, x, _ = ppca()

    def refused(rows: Tensor) -> Tensor:
        raise RuntimeError("no units")

    def lacking(rows: Tensor) -> Any:
        raise RuntimeError("no maximum")

    pair.model.maximum_likelihood = lacking
    found = judged(pair, x, num_rows=4, log_jacobian=refused)
    assert (found["evidence"].level, found["model"].level) == ("unknown", "unknown")
    assert "no units" in found["evidence"].found
    assert "no maximum" in found["model"].found
    assert {found[name].level for name in ("posterior", "encoder", "calibration")} == {"good"}


def plain(dtype: torch.dtype, with_parameter: bool) -> Pair:
    """z ~ N(0, 1), x ~ N(z, 1) in two columns: the posterior is N(sum / 3, 1 / 3)."""
    third = torch.full((2, 1), 1 / 3, dtype=dtype)

    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Normal(torch.zeros(len(x), dtype=dtype), 1.0))
            observe("x", Normal(z[:, None].expand(-1, 2), 1.0), x)

    def guide(x: Tensor) -> None:
        weight = pyro.param("weight", third.clone) if with_parameter else third
        with data_plate(x):
            pyro.sample("z", Normal((x @ weight)[:, 0], 3**-0.5))

    return Pair(model, guide)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("with_parameter", "run"), [(False, False), (True, False), (True, True)])
def test_rows_come_in_the_precision_in_which_functions_run(dtype: torch.dtype, with_parameter: bool, run: bool) -> None:
    """Wrong: rows in double precision are narrowed beside functions in it, and the contract is called broken."""
    pair = plain(dtype, with_parameter)
    if run:
        pair.materialize(torch.zeros(2, 2, dtype=dtype))
    rows = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert usable_rows(pair, rows)[0].dtype is dtype
    assert usable_rows(pair, rows.round().long())[0].dtype is torch.int64
    assert contract(pair, rows).ok
    assert len(list(pair.named_parameters())) == run


def test_densities_that_are_not_finite_break_the_contract() -> None:
    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Normal(torch.zeros(len(x)), 1.0))
            observe("x", Normal(z[:, None] * float("nan"), 1.0, validate_args=False), x)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", Normal(x[:, 0], 1.0))

    found = judged(Pair(model, guide), torch.randn(30, 2))
    assert found["contract"].level == "bad"
    assert "x" in found["contract"].found


def test_one_row_is_judged_as_far_as_it_goes(capsys: pytest.CaptureFixture[str], ppca: Made) -> None:
    """Wrong: a single row crashes a check. Progress: each verdict is told as it comes, with its seconds."""
    pair, x, _ = ppca()
    found = judge(pair, x[:1])
    assert found["posterior"].level == "good"
    assert {found[name].level for name in ("latents", "realism", "overfitting")} == {"unknown"}
    assert "this check raised" not in str(found)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" s)")]
    assert lines[0].startswith("contract good (")
    assert [line.split()[0] for line in lines] == [
        "contract", "evidence", "posterior", "family", "weights", "latents", "calibration", "realism"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": "enough"}, "budget='enough'"),
        ({"num_rows": 0}, "num_rows=0"),
        ({"held_out": torch.zeros(9, 5)}, r"held-out rows have shape \(5,\)"),
        ({"x": torch.zeros(0, 6)}, "at least one row"),
        ({"x": torch.full((9, 6), float("inf"))}, "infinite"),
    ],
)
def test_what_can_not_be_used_is_one_line(options: dict[str, Any], said: str, ppca: Made) -> None:
    pair, x, held_out = ppca()
    with pytest.raises(DataError, match=said) as raised:
        judge(pair, **{"x": x, "held_out": held_out, **options})
    assert "\n" not in str(raised.value)
