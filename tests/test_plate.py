import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Gamma, MultivariateNormal, Normal, Poisson
from torch import nan

from pyro_lvm.errors import DataError
from pyro_lvm.plate import data_plate, feeding, observe


def test_plate_scales_by_the_whole_data_set_only_while_it_is_fed() -> None:
    # Wrong: minibatch gradients would weigh likelihood and global terms in the wrong proportion.
    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", Normal(0.0, 1.0))

    x = torch.zeros(5, 2)
    with feeding(50):
        inside = poutine.trace(model).get_trace(x)
    outside = poutine.trace(model).get_trace(x)
    assert inside.nodes["z"]["scale"] == 10
    assert outside.nodes["z"]["scale"] == 1


def test_plate_draws_no_indices_so_that_the_guide_cannot_override_them() -> None:
    # Wrong: the guide's own subsample would replace the model's, and rows would meet other rows' latents.
    x = torch.randn(4, 3)

    def rows() -> None:
        with data_plate(x):
            pass

    with feeding(100):
        trace = poutine.trace(rows).get_trace()
    assert torch.equal(trace.nodes["data"]["value"], x)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda p: Normal(p, 1.0), 0.3),
        (lambda p: Bernoulli(torch.sigmoid(p)), 1.0),
        (lambda p: Poisson(p.exp()), 3.0),
        (lambda p: Gamma(p.exp(), 1.0), 2.5),
    ],
    ids=["normal", "bernoulli", "poisson", "gamma"],
)
def test_missing_entries_add_nothing_and_leave_gradients_finite(make, value) -> None:  # type: ignore[no-untyped-def]
    # Wrong: one hole would turn every gradient into NaN, or count as an observation of the fill value.
    parameter = torch.zeros(2, 3, requires_grad=True)
    x = torch.full((2, 3), value)
    x[0, 1] = nan
    x[1] = nan

    def model() -> None:
        with data_plate(x):
            observe("x", make(parameter), x)

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    expected = make(parameter).log_prob(torch.full((2, 3), value))
    assert torch.allclose(
        trace.nodes["x"]["log_prob"], torch.stack([expected[0, 0] + expected[0, 2], torch.tensor(0.0)])
    )
    trace.log_prob_sum().backward()
    assert parameter.grad is not None
    assert torch.isfinite(parameter.grad).all()
    assert (parameter.grad[torch.isnan(x)] == 0).all()
    assert (parameter.grad[~torch.isnan(x)] != 0).all()


def test_images_are_one_event_a_row() -> None:
    # Wrong: a batch of images would have a log-probability for each line of pixels, outside the plate.
    x = torch.zeros(4, 2, 3)

    def model() -> None:
        with data_plate(x):
            observe("x", Normal(torch.zeros(2, 3), 1.0).expand([4, 2, 3]), x)

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (4,)
    assert math.isclose(trace.nodes["x"]["log_prob"][0], -3 * math.log(2 * math.pi), rel_tol=1e-6)


def test_joint_distribution_takes_complete_rows_and_refuses_holes() -> None:
    x = torch.zeros(3, 2)
    joint = MultivariateNormal(torch.zeros(2), torch.eye(2))

    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            observe("x", joint, x)

    assert poutine.trace(model).get_trace(x).log_prob_sum() < 0
    x[0, 0] = nan
    with pytest.raises(DataError, match="site 'x' has missing entries, but its distribution has event_dim=1"):
        model(x)


def test_unconditioned_site_is_drawn_for_holes_too() -> None:
    # Wrong: a posterior predictive check would compare data with data.
    x = torch.tensor([[1.0, nan], [nan, nan]])

    def model(x: torch.Tensor) -> None:
        with data_plate(x):
            observe("x", Normal(torch.full((2,), 100.0), 1.0).expand([2, 2]), x)

    drawn = poutine.trace(poutine.uncondition(model)).get_trace(x).nodes["x"]["value"]
    assert (drawn > 90).all()
