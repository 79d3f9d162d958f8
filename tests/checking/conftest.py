"""The gallery of pairs, for every test of the checker."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load_gallery() -> ModuleType:
    # In importlib mode a test's folder is not on the path, and the file beside it no module.
    name = "checking_gallery"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("gallery.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_GALLERY = _load_gallery()


@pytest.fixture(scope="session")
def gallery() -> ModuleType:
    """The module of pairs."""
    return _GALLERY


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = {"sound": _GALLERY.SOUND, "broken": _GALLERY.BROKEN, "any_case": _GALLERY.SOUND + _GALLERY.BROKEN}
    for name, held in cases.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, held, ids=lambda case: case.name)
