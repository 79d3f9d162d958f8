from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from pyro_lvm import catalogue
from pyro_lvm.catalogue import PairSpec, build, find, rebuild
from pyro_lvm.errors import PairError

FILE = '''"""A pair of one's own."""
import pyro, torch
from pyro.distributions import Normal
from torch import nn
from pyro.nn import PyroModule
from pyro_lvm import data_plate, observe

def model(x):
    loc = pyro.param("loc", torch.zeros(x.shape[1]))
    with data_plate(x):
        z = pyro.sample("z", Normal(0.0, 1.0))
        observe("x", Normal(loc + z[:, None], 1.0), x)

def guide(x):
    slope = pyro.param("slope", torch.zeros(()))
    with data_plate(x):
        pyro.sample("z", Normal(slope * x.mean(-1), 1.0))

class Model(PyroModule):
    def __init__(self, data_dim, width=3):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(data_dim, width))
    def forward(self, x):
        with data_plate(x):
            z = pyro.sample("z", Normal(0.0, 1.0))
            observe("x", Normal(self.loc.sum(-1) + z[:, None], 1.0), x)

number = 3
'''


@pytest.fixture
def pair_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_pair.py"
    path.write_text(FILE)
    return path


def test_functions_and_classes_of_a_file_become_a_pair(pair_file: Path) -> None:
    x = torch.randn(5, 4)
    assert find(f"{pair_file}:model,guide").summary == "A pair of one's own."
    for half in ("model", "Model"):
        pair = build(f"{pair_file}:{half},guide", {"data_dim": 4, "image_shape": None}, options={})
        pair.materialize(x)
    wide = build(f"{pair_file}:Model,guide", {"data_dim": 4}, options={"width": 7})
    assert wide.model.loc.shape == (4, 7)
    assert wide.config["arguments"]["model"] == {"data_dim": 4, "width": 7}


def test_build_is_reproducible_and_rebuilds_from_plain_json(pair_file: Path) -> None:
    import json

    first = build("ppca", {"data_dim": 6, "image_shape": None}, options={"latent_dim": 3}, seed=5)
    second = build("ppca", {"data_dim": 6, "image_shape": None}, options={"latent_dim": 3}, seed=5)
    assert torch.equal(first.model.relative_loadings, second.model.relative_loadings)
    again = rebuild(json.loads(json.dumps(first.config)))
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in first.state_dict().items()}


def test_configuration_that_names_a_file_runs_nothing_unasked(tmp_path: Path) -> None:
    # Wrong: reading somebody's run would execute whatever file it names.
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nmodel = guide = print\n")
    config = {"pair": f"{trap}:model,guide", "guide": "guide", "arguments": {"model": {}, "guide": {}}}
    with pytest.raises(PairError, match="is not run unasked"):
        rebuild(config)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("pcpa", "unknown pair 'pcpa': did you mean 'ppca'"),
        ("zebra", "unknown pair 'zebra': installed are"),
        ("nowhere.py:model,guide", "no file 'nowhere.py'"),
        ("{file}:model", "names no pair"),
        ("{file}", "names no pair"),
        ("{file}:modle,guide", "defines no 'modle': it has model, guide, Model"),
        ("{file}:number,guide", "a int is no half of a pair"),
    ],
)
def test_unknown_references_are_one_clear_line(pair_file: Path, reference: str, message: str) -> None:
    with pytest.raises(PairError) as error:
        find(reference.format(file=pair_file))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_file_that_fails_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    with pytest.raises(PairError, match="ZeroDivisionError"):
        find(f"{path}:model,guide")


def test_options_are_checked(pair_file: Path) -> None:
    with pytest.raises(PairError, match="no option 'depth': its options are latent_dim"):
        build("ppca", {"data_dim": 4, "image_shape": None}, options={"depth": 3})
    with pytest.raises(PairError, match="no guide 'banded': expected one of full, diagonal"):
        build("ppca", {"data_dim": 4}, guide="banded")
    with pytest.raises(PairError, match="needs 'data_dim'"):
        build("ppca", {})


def test_pairs_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="theirs", value="pyro_lvm.zoo:ppca", group=catalogue.ENTRY_POINTS)
    wrong = EntryPoint(name="wrong", value="pyro_lvm.zoo:PPCA", group=catalogue.ENTRY_POINTS)
    monkeypatch.setattr(catalogue.importlib.metadata, "entry_points", lambda group: [point, wrong])
    assert isinstance(find("theirs"), PairSpec)
    assert catalogue.names() == ["theirs", "wrong"]
    with pytest.raises(PairError, match="expected a PairSpec"):
        find("wrong")
