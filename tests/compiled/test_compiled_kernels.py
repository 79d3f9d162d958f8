"""The kernels of a step are compiled as one file, and a cache with half a file in it is no obstacle."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, fx

from pyro_lvm.compiled import SVI
from pyro_lvm.compiled.program import _damaged_file, compile_step

kernels = pytest.importorskip("pyro_lvm.compiled.kernels", reason="an Inductor without what the module stands on")


def step(weight: Tensor, moment: Tensor, x: Tensor) -> tuple[Tensor]:
    # Products of matrices part what comes before from what comes after: three kernels, of other arguments each.
    z = torch.tanh(x @ torch.exp(weight) + 1)
    error = (x - z @ weight.t().sigmoid()) ** 2
    moment.copy_(0.5 * moment + z.t() @ error)
    weight.copy_(weight - 0.01 * moment.t().cos())
    return (error.sum().double().sqrt(),)


def arguments() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for size in ((6, 3), (3, 6), (20, 6))]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_one_library(cache: Path) -> None:
    # Wrong: a kernel would be called by another's name or with another's arguments, or each have a compiler of its own.
    expected, given = arguments(), arguments()
    compiled = compile_step(fx.symbolic_trace(step), given)
    for _ in range(2):
        torch.testing.assert_close(compiled(*given), step(*expected))
    torch.testing.assert_close(given, expected)
    (library,) = cache.rglob("*.main.so")
    assert library.with_suffix(".cpp").read_text().count("PyInit_") >= 3


@pytest.mark.parametrize(
    ("template", "source"),
    [
        ("{of_another_version}", 'extern "C" void kernel(const float* x)'),
        (None, 'extern "C" int other(const float* x)'),
    ],
)
def test_where_inductor_is_otherwise(monkeypatch: pytest.MonkeyPatch, template: str | None, source: str) -> None:
    # Wrong: a version of PyTorch with another template, or other names, would leave steps uncompiled.
    if template is not None:
        monkeypatch.setattr(kernels._Library, "suffix_template", template)
    together = kernels._Together(lambda types, source: kernels.LambdaFuture(lambda: (types, source)))
    futures = [together.add(["const float*"] * count, source) for count in (1, 2)]
    assert [future.result() for future in futures] == [(["const float*"] * count, source) for count in (1, 2)]


def test_other_threads_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: what another thread compiles meanwhile would wait for, or become part of, this thread's step.
    monkeypatch.setattr(kernels.AsyncCompile, "cpp_pybinding", lambda self, types, source: "its own")
    found: list[Any] = []

    def elsewhere() -> None:
        found.append(kernels.AsyncCompile().cpp_pybinding([], ""))

    with kernels.compiled_together():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert isinstance(kernels.AsyncCompile().cpp_pybinding([], ""), kernels.LambdaFuture)
    elsewhere()
    assert found == ["its own", "its own"]


def model(x: Tensor) -> None:
    weight = pyro.param("weight", lambda: torch.eye(2, 4))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight, 0.5).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    slope = pyro.param("slope", lambda: torch.zeros(4, 2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ slope, 0.7).to_event(1))


def test_interrupted_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: the empty file that an interrupted compiler leaves would keep this model from being compiled for good.
    from torch._inductor import codecache

    compilers = codecache._worker_compile_cpp
    emptied: list[Path] = []

    def interrupted_once(lock: str, builders: Any) -> None:
        if not emptied:
            emptied.append(Path(builders[-1].get_target_file_path()))
            emptied[0].touch()
        compilers(lock, builders)

    monkeypatch.setattr(codecache, "_worker_compile_cpp", interrupted_once)
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), compile=True)
    for _ in range(3):
        svi.step(torch.ones(5, 4))
    report = svi.explain()
    assert report.mode == "compiled"
    assert [str(emptied[0]) in reason for reason in report.reasons] == [True]
    assert emptied[0].stat().st_size > 0


def test_only_files_of_the_cache_are_damaged(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # Wrong: a package that can't be imported would lose its files.
    foreign = tmp_path_factory.mktemp("site-packages") / "extension.so"
    assert _damaged_file(ImportError("cannot import name", path=str(foreign))) is None
    assert _damaged_file(ImportError("cannot import name", path=str(cache / "module.py"))) is None
    assert _damaged_file(ImportError("no path")) is None
    assert _damaged_file(RuntimeError("something else")) is None
    assert _damaged_file(ImportError("file too short", path=str(cache / "ab" / "x.so"))) == cache / "ab" / "x.so"
