import os
import signal
import threading
import time

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.distributions import Normal
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_lvm import fit, grade
from pyro_lvm.errors import DataError, PairError, TrainingError
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA
from pyro_lvm.plate import data_plate, observe
from pyro_lvm.training import TrainingState


def small(rows: int = 300, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, generator=generator) @ torch.randn(2, 6, generator=generator) + 0.3 * torch.randn(
        rows, 6, generator=generator
    )


def pair() -> tuple[PPCA, LinearGaussian]:
    return PPCA(6, 2), LinearGaussian(6, 2)


def test_default_fit_converges_to_the_closed_form() -> None:
    # Wrong: the first thing a user does would end far from the truth, or never.
    x = small()
    result = fit(*pair(), x, progress=False)
    graded = grade(result.pair, x)
    assert result.converged
    assert graded.gap is not None
    assert graded.kl_to_exact is not None
    assert -1e-9 < graded.gap < 5e-4
    assert graded.kl_to_exact < 2e-3
    assert graded.elbo_agrees


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("covariance", "gap", "kl"), [("full", 2e-4, 2e-3), ("diagonal", 6e-3, 6e-3)])
def test_default_fit_reaches_the_truth_on_digits(
    digits: Tensor, seed: int, covariance: str, gap: float, kl: float
) -> None:
    result = fit(PPCA(64, 8), LinearGaussian(64, 8, covariance), digits, seed=seed, progress=False)  # type: ignore[arg-type]
    graded = grade(result.pair, digits)
    assert graded.gap is not None
    assert graded.kl_to_exact is not None
    assert graded.gap <= gap
    assert graded.kl_to_exact <= kl
    assert graded.log_evidence_ml == pytest.approx(14.2097883, abs=1e-7)


@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_default_fit_works_on_any_scale(factor: float) -> None:
    # Wrong: a rate tuned to grey values would diverge or stand still on other units. Scaling by f adds D log f a row.
    x = small() * factor
    result = fit(*pair(), x, progress=False)
    assert grade(result.pair, x).gap < 1e-3  # type: ignore[operator]


def test_same_seed_same_history_and_weights() -> None:
    # Wrong: nothing could be reproduced.
    x = small()
    torch.manual_seed(1)
    first = fit(*pair(), x, steps=60, seed=7, progress=False)
    torch.manual_seed(2)
    second = fit(*pair(), x, steps=60, seed=7, progress=False)
    other = fit(*pair(), x, steps=60, seed=8, progress=False)
    assert first.history == second.history
    assert first.history != other.history
    for name, value in first.pair.state_dict().items():
        assert torch.equal(value, second.pair.state_dict()[name])


def test_the_callers_random_state_is_left_alone() -> None:
    model, guide = pair()
    torch.manual_seed(3)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - what Pyro seeds
    fit(model, guide, small(), steps=3, progress=False)
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002


def test_budgets() -> None:
    x = small(100)
    assert fit(*pair(), x, steps=7, progress=False).steps == 7
    # 100 rows in batches of 30: three steps an epoch.
    result = fit(*pair(), x, epochs=2, batch_size=30, progress=False)
    assert result.steps == 6
    assert result.stopped == "budget"
    assert result.history.records[-1]["epoch"] == 2
    limited = fit(*pair(), x, max_steps=50, progress=False)
    assert (limited.stopped, limited.steps) == ("not converged", 50)


def test_every_row_is_used_and_batches_are_of_one_size() -> None:
    # Wrong: dropped remainders would bias the fit towards the first rows, a tiny last batch would swamp the gradient.
    seen: list[Tensor] = []

    class Watching(LinearGaussian):
        def forward(self, x: Tensor) -> None:
            seen.append(x)
            super().forward(x)

    x = small(10)
    fit(PPCA(6, 2), Watching(6, 2), x, steps=40, batch_size=4, progress=False)
    batches = [b for b in seen[1:] if len(b) == 4]
    assert len(batches) >= 40
    assert {tuple(row.tolist()) for b in batches for row in b} == {tuple(row.tolist()) for row in x}


def test_a_guide_with_parameters_for_each_row_sees_rows_in_their_order() -> None:
    # Wrong: every epoch would hand each row the parameters of another.
    x = small(60)
    model = PPCA(6, 2)
    guide = AutoNormal(model)
    with torch.no_grad():
        model.start(x, torch.Generator().manual_seed(0))
    result = fit(model, guide, x, steps=1500, lr=0.05, progress=False)
    amortized = fit(*pair(), x, steps=1500, progress=False)
    assert grade(result.pair, x).elbo > grade(amortized.pair, x).elbo - 0.5
    with pytest.raises(PairError):
        fit(model, AutoNormal(model), x, batch_size=20, steps=5, progress=False)


@pytest.mark.parametrize("half", ["guide", "model"])
def test_training_one_half_leaves_the_other(half: str) -> None:
    # Wrong: an E-step would move the model, an M-step the guide.
    x = small()
    trained = fit(*pair(), x, steps=200, progress=False).pair
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    fit(trained.model, trained.guide, x, pair=trained, steps=20, train=half, progress=False)  # type: ignore[arg-type]
    changed = {
        name.split(".")[0] for name, value in trained.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {half}


def test_e_step_alone_finds_the_posterior_of_a_model_that_was_set_by_hand() -> None:
    # Wrong: the start from data would overwrite the model whose posterior is asked for.
    x = small()
    model = PPCA(6, 2)
    with torch.no_grad():
        model.relative_loadings.copy_(torch.linspace(-1, 1, 12).reshape(6, 2))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    result = fit(model, LinearGaussian(6, 2), x, train="guide", lr=0.1, progress=False)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert grade(result.pair, x).kl_to_exact < 5e-3  # type: ignore[operator]


@pytest.mark.parametrize(
    "elbo", [TraceMeanField_ELBO, TraceMeanField_ELBO(num_particles=2), Trace_ELBO(num_particles=3)]
)
def test_any_pyro_elbo_on_request(elbo: object) -> None:
    result = fit(PPCA(6, 2), LinearGaussian(6, 2, "diagonal"), small(), steps=30, elbo=elbo, progress=False)  # type: ignore[arg-type]
    assert len(result.history) == 30


def test_elbo_in_the_history_is_in_nats_a_row() -> None:
    # Wrong: a printed ELBO would depend on how many rows there are.
    x = small()
    result = fit(*pair(), x, steps=1500, progress=False)
    graded = grade(result.pair, x)
    last = np.mean([r["elbo"] for r in result.history.records[-20:]])
    assert last == pytest.approx(graded.elbo, abs=0.1)


def test_early_stopping_keeps_the_best_parameters() -> None:
    # Wrong: a budget that is too long would end with an overfitted pair.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 20, generator=generator)

    class Net(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Sequential(nn.Linear(10, 200), nn.ReLU(), nn.Linear(200, 20))

        def forward(self, x: Tensor) -> None:
            with data_plate(x):
                z = pyro.sample("z", Normal(x.new_zeros(10), 1.0).to_event(1))
                observe("x", Normal(self.decoder(z), 0.3), x)

    class Encoder(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 20))

        def forward(self, x: Tensor) -> None:
            with data_plate(x):
                loc, log_scale = self.net(x).chunk(2, -1)
                pyro.sample("z", Normal(loc, log_scale.exp()).to_event(1))

    torch.manual_seed(0)
    result = fit(Net(), Encoder(), x, steps=2000, lr=3e-3, validation=0.3, patience=3, progress=False)
    values = [r["validation_elbo"] for r in result.history.records if r["validation_elbo"] is not None]
    assert result.stopped == "early stopping"
    assert result.steps < 2000
    assert result.validation_rows is not None
    held_out = x[torch.from_numpy(result.validation_rows)]
    assert grade(result.pair, held_out).elbo == pytest.approx(max(values), abs=0.5)


def test_validation_rows_are_held_out_and_reported() -> None:
    result = fit(*pair(), small(100), steps=20, validation=0.2, progress=False)
    assert result.num_rows == 80
    assert result.validation_rows is not None
    assert len(set(result.validation_rows.tolist())) == 20
    given = fit(*pair(), small(100), steps=20, validation=small(30, seed=1), progress=False)
    assert given.num_rows == 100


def test_callbacks_see_records_and_can_stop() -> None:
    seen: list[TrainingState] = []

    def callback(state: TrainingState) -> None:
        seen.append(state)
        if state.step >= 10:
            state.stop()

    result = fit(*pair(), small(), steps=100, callbacks=[callback], progress=False)
    assert (result.stopped, result.steps) == ("callback", 10)
    assert [s.step for s in seen] == list(range(1, 11))


def test_interrupt_keeps_what_was_learned() -> None:
    # Wrong: Ctrl-C after an hour would lose the hour.
    x = small()
    # Tests that run in the background may have inherited that Ctrl-C is ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    # Not compiled: the interruption has to fall into the training.
    try:
        result = fit(*pair(), x, steps=1_000_000, progress=False, compile=False)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert result.stopped == "interrupted"
    assert 0 < result.steps < 1_000_000
    untrained = fit(*pair(), x, steps=1, progress=False)
    assert grade(result.pair, x).log_evidence > grade(untrained.pair, x).log_evidence  # type: ignore[operator]


def test_loss_that_becomes_nan_keeps_the_last_good_state() -> None:
    # Wrong: one bad step would leave nothing but NaN.
    class Breaking(PPCA):
        runs = 0

        def forward(self, x: Tensor) -> None:
            self.runs += 1
            super().forward(x * float("nan") if self.runs > 40 else x)

    model, guide = Breaking(6, 2), LinearGaussian(6, 2)
    with pytest.raises(TrainingError, match=r"the loss became nan at step \d+"), pyro.validation_enabled(False):
        fit(model, guide, small(), steps=100, progress=False)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert model.relative_loadings.abs().max() > 0


def test_parameters_that_overflow_leave_the_last_good_state() -> None:
    # Wrong: a step whose loss is finite and whose parameters are not would be kept as the last good one.
    model, guide = pair()
    with pytest.raises(TrainingError, match="the last good state is kept"):
        fit(model, guide, small(), steps=3, lr=1e300, progress=False)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_tables_arrays_and_images_are_taken() -> None:
    x = small(50)
    for data in (x.numpy(), pd.DataFrame(x.numpy()), x.double()):
        assert fit(*pair(), data, steps=2, progress=False).num_rows == 50


def test_image_tensors_reach_the_pair_in_their_shape() -> None:
    # Wrong: a convolutional encoder of one's own would be handed flat rows.
    shapes: set[tuple[int, ...]] = set()

    def model(x: Tensor) -> None:
        shapes.add(tuple(x.shape[1:]))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=torch.distributions.constraints.positive)
        with data_plate(x):
            z = pyro.sample("z", Normal(0.0, 1.0))
            observe("x", Normal(z[:, None, None, None], scale), x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(()))
        with data_plate(x):
            pyro.sample("z", Normal(slope * x.mean((1, 2, 3)), 1.0))

    fit(model, guide, torch.randn(8, 1, 3, 2), steps=2, progress=False)
    assert shapes == {(1, 3, 2)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5, "epochs": 2}, "give one budget or none"),
        ({"steps": 0}, "steps=0: expected a positive number"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"train": "decoder"}, "train='decoder'"),
        ({"device": "abacus"}, "device 'abacus' is not to be had"),
        ({"validation": 1.5}, "validation=1.5 of 300 rows"),
        ({"validation": torch.zeros(4, 2)}, "validation rows have shape"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((TrainingError, DataError), match=message):
        fit(*pair(), small(), progress=False, **options)  # type: ignore[arg-type]


def test_data_that_cannot_be_used_is_refused() -> None:
    x = small()
    with pytest.raises(DataError, match="expected at least 2 rows"):
        fit(*pair(), x[:1], progress=False)
    with pytest.raises(DataError, match="1 infinite entries"):
        fit(*pair(), torch.where(torch.arange(300)[:, None] + torch.arange(6) == 0, torch.inf, x), progress=False)
    holes = x.clone()
    holes[0, 0] = torch.nan
    with pytest.raises(PairError, match="1 missing entries, which the guide LinearGaussian cannot take"):
        fit(*pair(), holes, progress=False)


def test_nothing_to_train_is_refused() -> None:
    def model(x: Tensor) -> None:
        with data_plate(x):
            z = pyro.sample("z", Normal(0.0, 1.0))
            observe("x", Normal(z[:, None].expand(-1, 6), 1.0), x)

    def guide(x: Tensor) -> None:
        with data_plate(x):
            pyro.sample("z", Normal(0.0, 1.0))

    with pytest.raises(PairError, match="nothing to train"):
        fit(model, guide, small(), progress=False)


def test_progress_is_shown_on_long_work_and_not_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    def slowly(state: TrainingState) -> None:
        time.sleep(1.1)

    fit(*pair(), small(), steps=4, callbacks=[slowly])
    assert "ELBO" in capsys.readouterr().err
    fit(*pair(), small(), steps=4, callbacks=[slowly], progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_trains_on_a_gpu() -> None:
    x = small()
    result = fit(*pair(), x, steps=2000, device="cuda", progress=False)
    assert result.pair.device.type == "cuda"
    assert grade(result.pair, x).gap < 1e-2  # type: ignore[operator]
