"""The contract check: each mistake is named at its site, sound pairs are left in peace, and nothing is touched."""

import contextlib
import io
import random
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from rich.console import Console
from torch import Tensor, nn

from pyro_lvm import Pair
from pyro_lvm.checking import CODES, CheckResult, Finding, check_pair, quick_check
from pyro_lvm.checking.state import find_modules
from pyro_lvm.errors import DataError, PairError
from pyro_lvm.guides import LinearGaussian
from pyro_lvm.models import PPCA

# Found only by what takes long.
THOROUGH_ONLY = {"single-row-fails", "rows-not-independent", "state-not-saved"}


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with warnings.catch_warnings():
        # Whatever a pair provokes while it is checked is the check's to tell.
        warnings.simplefilter("error")
        yield
    pyro.clear_param_store()


# ---- what is found


def test_nothing_is_said_about_a_sound_pair(sound: Any) -> None:
    result = check_pair(*sound.make(), sound.rows, **sound.options)
    assert list(result) == []
    assert result.ok
    assert result.complete


def test_a_mistake_is_named_at_its_site(broken: Any) -> None:
    result = check_pair(*broken.make(), broken.rows, **broken.options)
    first = next(iter(result), None)
    assert first is not None
    assert (first.code, first.site, first.severity) == (broken.code, broken.site, broken.severity)
    # One mistake, and what it brings along in the other half at most.
    assert len(list(result)) <= 2
    for finding in result:
        assert finding.code in CODES
        assert finding.code != "check-incomplete"
        assert "\n" not in finding.message


def test_every_code_has_a_pair_that_shows_it(gallery: Any) -> None:
    assert {case.code for case in gallery.BROKEN} == set(CODES) - {"check-incomplete"}


def test_mistakes_are_found_from_another_start(gallery: Any) -> None:
    # A random start, other draws: the finding must not depend on luck.
    for case in gallery.BROKEN + gallery.SOUND:
        pyro.set_rng_seed(1)
        first = next(iter(check_pair(*case.make(), case.rows, **case.options)), None)
        assert (first.code if first is not None else None) == case.code, case.name


def test_the_quick_part_stops_a_broken_pair_in_one_line(broken: Any) -> None:
    if broken.code == "not-callable":
        with pytest.raises(PairError):
            Pair(*broken.make())
        return
    pair = Pair(*broken.make())
    if broken.severity == "warning" or broken.code in THOROUGH_ONLY:
        assert quick_check(pair, broken.rows, **broken.options).ok
        return
    with pytest.raises(PairError, match=broken.code) as raised:
        quick_check(pair, broken.rows, **broken.options)
    assert "\n" not in str(raised.value)


def test_the_quick_part_lets_a_sound_pair_through(sound: Any) -> None:
    assert list(quick_check(Pair(*sound.make()), sound.rows, **sound.options)) == []


def test_an_automatic_guide_gets_one_remark(gallery: Any) -> None:
    named = {case.name: case for case in gallery.BROKEN}
    for name in ("automatic_guide", "automatic_point_estimate", "automatic_guide_on_minibatches"):
        case = named[name]
        assert [f.code for f in check_pair(*case.make(), case.rows, **case.options)] == ["not-amortized"]


def test_with_validation_off_the_same_is_found(gallery: Any) -> None:
    # With validation on the distributions raise of themselves; with it off a mistake is silent, and counts as much.
    for case in gallery.BROKEN + gallery.SOUND:
        if case.code == "observed-outside-support":
            continue  # who switches validation off may mean grey pixels under a Bernoulli density
        with pyro.validation_enabled(False):
            first = next(iter(check_pair(*case.make(), case.rows, **case.options)), None)
        assert (first.code if first is not None else None) == case.code, case.name


def test_sites_of_a_sequential_plate_are_one_finding() -> None:
    def model(x: Tensor) -> None:
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{i}", pyro.distributions.Normal(0.0, 1.0))
            pyro.sample(f"x_{i}", pyro.distributions.Normal(z, 1.0).expand([4]).to_event(1), obs=x[i])

    (finding,) = check_pair(model, lambda x: None, torch.randn(20, 4))
    assert (finding.code, finding.site) == ("latent-missing-in-guide", "z_0")
    assert "sites like it" in finding.message


def test_a_broken_pair_tells_all_of_its_mistakes() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", pyro.distributions.Gamma(1.0, 1.0))
            pyro.sample("b", pyro.distributions.Normal(0.0, 1.0))
            pyro.sample("x", pyro.distributions.Normal(a[..., None], 1.0).expand([len(x), 4]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.zeros(4))
        with pyro.plate("data", len(x)):
            pyro.sample("a", pyro.distributions.Normal(x @ slope, 1.0))

    found = {(f.code, f.site) for f in check_pair(model, guide, torch.randn(40, 4))}
    assert found == {("latent-missing-in-guide", "b"), ("support-mismatch", "a")}


# ---- what it is given


def test_the_parameters_of_a_pair_are_the_ones_checked(gallery: Any) -> None:
    x = gallery.gaussian_rows()
    pair = Pair(gallery.linear_model, gallery.linear_guide)
    pair.materialize(x)
    pair._store["params"]["loadings"].data.fill_(float("nan"))
    (finding,) = check_pair(pair.model, pair.guide, x, pair=pair)
    assert (finding.code, finding.site) == ("parameter-out-of-range", "x")


def test_weights_that_wait_for_their_parameters_are_the_ones_checked(gallery: Any) -> None:
    x = gallery.gaussian_rows()
    pair = Pair(gallery.linear_model, gallery.linear_guide)
    pair.materialize(x)
    state = {name: torch.full_like(value, float("nan")) for name, value in pair.state_dict().items()}
    loaded = Pair(gallery.linear_model, gallery.linear_guide)
    loaded.load_state_dict(state)
    assert not check_pair(loaded.model, loaded.guide, x, pair=loaded).ok
    assert set(loaded._pending) == set(state)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_rows_are_enough(gallery: Any, n: int) -> None:
    assert list(check_pair(gallery.linear_model, gallery.linear_guide, gallery.gaussian_rows(n))) == []


@pytest.mark.parametrize("form", [torch.Tensor.numpy, torch.Tensor.double, lambda x: pd.DataFrame(x.numpy())])
def test_rows_of_any_form(form: Any) -> None:
    assert list(check_pair(PPCA(4, 2), LinearGaussian(4, 2), form(torch.randn(40, 4)))) == []


def test_a_pair_in_double_precision_is_checked_in_it() -> None:
    assert list(check_pair(PPCA(4, 2).double(), LinearGaussian(4, 2).double(), torch.randn(40, 4))) == []


def test_rows_that_cannot_be_used_are_an_error_of_the_data(gallery: Any) -> None:
    x = gallery.gaussian_rows()
    for rows, options in (
        (x[:0], {}),
        (torch.tensor(1.0), {}),
        (x / 0.0, {}),
        (x, {"num_rows": 39}),
    ):
        with pytest.raises(DataError, match=r"expected|infinite"):
            check_pair(gallery.linear_model, gallery.linear_guide, rows, **options)


def test_a_wide_model_is_not_mistaken_for_its_rows() -> None:
    # As many features and latents as there could be rows in the batch that is looked at.
    for width in (61, 53):
        assert list(check_pair(PPCA(width, 47), LinearGaussian(width, 47), torch.randn(100, width))) == []


def test_the_rows_are_those_of_any_plate_of_that_size() -> None:
    """Another plate may happen to be as large as the batch."""

    def model(x: Tensor) -> None:
        with pyro.plate("components", len(WIDTHS), dim=-1):
            pyro.sample("locs", pyro.distributions.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            pyro.sample("x", pyro.distributions.Normal(z[..., None], 1.0).expand([len(x), 4]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        locs = pyro.param("locs_q", torch.zeros(len(WIDTHS)))
        slope = pyro.param("slope", torch.zeros(4))
        with pyro.plate("components", len(WIDTHS), dim=-1):
            pyro.sample("locs", pyro.distributions.Normal(locs, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", pyro.distributions.Normal(x @ slope, 1.0))

    assert list(check_pair(model, guide, torch.randn(100, 4))) == []


WIDTHS = range(61)


# ---- what it leaves behind


def _fingerprint(half_modules: dict[str, nn.Module], pair: Pair | None) -> dict[str, Any]:
    marks: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002 - Pyro's own generator
        "python": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "validation": pyro.distributions.is_validation_enabled(),
        "stack": list(_PYRO_STACK),
        "dims": list(_DIM_ALLOCATOR._stack),
    }
    stores = [("global", pyro.get_param_store()._params)]
    if pair is not None:
        stores.append(("own", pair._store["params"]))
        marks["constraints"] = {name: repr(c) for name, c in pair._store["constraints"].items()}
        marks["pending"] = dict(pair._pending)
    for kind, store in stores:
        marks[f"{kind} names"] = list(store)
        marks |= {f"{kind}.{name}": _tensor(value) for name, value in store.items()}
    for role, root in half_modules.items():
        for name, module in root.named_modules():
            for key, value in vars(module).items():
                marks[f"{role}.{name}.{key}"] = _tensor(value) if isinstance(value, Tensor) else _plain(value)
            for key, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                marks[f"{role}.{name}:{key}"] = _tensor(value)
    return marks


def _tensor(value: Tensor) -> tuple[Any, ...]:
    grad = value.grad if value.is_leaf else None
    return id(value), value.detach().clone(), value.requires_grad, id(grad), None if grad is None else grad.clone()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, id(held)) for key, held in value.items()]
    return value if isinstance(value, (bool, int, float, str)) else id(value)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("ran_before", [False, True])
def test_everything_is_left_as_it_was(any_case: Any, ran_before: bool) -> None:
    pyro.get_param_store().setdefault("someone_elses", torch.ones(3), torch.distributions.constraints.positive)
    model, guide = any_case.make()
    modules = {f"{role}:{n}": m for role, half in (("m", model), ("g", guide)) for n, m in find_modules(half).items()}
    for module in modules.values():
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, 7.0)
    pair = None if isinstance(model, type) else Pair(model, guide)
    x = any_case.rows.clone()
    if ran_before and pair is not None:
        with contextlib.suppress(Exception):  # a broken pair may not run at all
            pair.materialize(x.clone())
        for parameter in pair._store["params"].values():
            parameter.grad = torch.full_like(parameter, 3.0)
    before = _fingerprint(modules, pair)
    # What ran before is the quick part's usual case; the thorough one does all that can leave a mark.
    check_pair(model, guide, x, pair=pair, thorough=not ran_before, **any_case.options)
    after = _fingerprint(modules, pair)
    assert before.keys() == after.keys()
    assert [key for key in before if not _same(before[key], after[key])] == []
    assert _same(x, any_case.rows)


def test_a_parameter_that_is_not_contiguous_stays_so() -> None:
    model = PPCA(4, 2)
    held = torch.randn(2, 4).T
    model.relative_loadings.data = held
    check_pair(model, LinearGaussian(4, 2), torch.randn(40, 4))
    assert model.relative_loadings.data.data_ptr() == held.data_ptr()
    assert not model.relative_loadings.is_contiguous()


def test_an_interrupted_check_leaves_everything_as_it_was() -> None:
    class Impatient(LinearGaussian):
        calls = 0

        def forward(self, x: Tensor) -> None:
            type(self).calls += 1
            if type(self).calls > 4:
                raise KeyboardInterrupt
            self.offset.data.add_(1.0)
            super().forward(x)

    pair, x = Pair(PPCA(4, 2), Impatient(4, 2)), torch.randn(40, 4)
    before = _fingerprint({"m": pair.model, "g": pair.guide}, pair)
    with pytest.raises(KeyboardInterrupt):
        check_pair(pair.model, pair.guide, x, pair=pair)
    after = _fingerprint({"m": pair.model, "g": pair.guide}, pair)
    assert [key for key in before if not _same(before[key], after[key])] == []


def _left_open(x: Tensor) -> None:
    pyro.plate("data", len(x)).__enter__()
    raise ValueError("left open")


def _second_time() -> Any:
    calls = []

    def model(x: Tensor) -> None:
        calls.append(x)
        if len(calls) % 2 == 0:
            raise LookupError("every second time")

    return model


def _without_a_density(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", lambda: torch.randn(len(x), 2))


def _endless(x: Tensor) -> None:
    _endless(x)


@pytest.mark.parametrize(
    "half", [_left_open, _second_time(), _without_a_density, _endless, nn.LazyLinear(2), int, lambda: None]
)
def test_no_pair_makes_it_raise(gallery: Any, half: Any) -> None:
    for pair in ((half, gallery.linear_guide), (gallery.linear_model, half), (half, half)):
        result = check_pair(*pair, gallery.gaussian_rows())
        assert not result.ok
        assert "check-incomplete" not in {f.code for f in result}
    assert not _PYRO_STACK
    assert not _DIM_ALLOCATOR._stack


def test_a_check_that_fails_itself_says_so(gallery: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a fault of the checker")

    monkeypatch.setattr("pyro_lvm.checking.check.check_scale", fail)
    result = check_pair(gallery.linear_model, gallery.linear_guide, gallery.gaussian_rows())
    assert [f.code for f in result] == ["check-incomplete"]


# ---- what it prints


RESULT = CheckResult(
    (
        Finding("wrong-scale", "error", "z", "scaled by 3, expected <2> [bold]"),
        Finding("plate-missing", "error", "x", "outside"),
        Finding("not-amortized", "warning", None, "the same for every row"),
    ),
    "Pair(model=m, guide=g)",
)


def test_a_result_prints_its_findings() -> None:
    text = str(RESULT)
    for word in ("2 errors", "1 warning", "wrong-scale", "plate-missing", "not-amortized", "expected <2> [bold]"):
        assert word in text
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(RESULT)
    assert "expected <2> [bold]" in console.export_text()


def test_a_result_shows_in_a_notebook() -> None:
    page = RESULT._repr_html_()
    assert page.count("<tr>") == 4
    assert "expected &lt;2&gt;" in page


def test_a_result_raises_its_first_error_in_one_line() -> None:
    with pytest.raises(PairError, match=r"^wrong-scale at 'z': scaled by 3.* \(and 1 more error: see check_pair\)$"):
        RESULT.raise_for_errors()
    CheckResult(RESULT.warnings, "pair").raise_for_errors()


def test_a_result_is_plain_json() -> None:
    held = RESULT.to_json()
    assert held["ok"] is False
    assert held["findings"][2] == {
        "code": "not-amortized",
        "severity": "warning",
        "site": None,
        "message": "the same for every row",
    }


def test_a_sound_result_is_one_line() -> None:
    assert str(CheckResult((), "Pair(model=m, guide=g)")) == "Pair(model=m, guide=g): nothing found"


def test_enumeration_prints_nothing(gallery: Any, capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    check_pair(*gallery.mixture_enumerated_in_the_model(), gallery.gaussian_rows(), elbo=TraceEnum_ELBO)
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []
