"""Writing the files of a new pair: into a checkout of this project, or a file of one's own anywhere else."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from pyro_lvm import catalogue
from pyro_lvm.errors import PairError
from pyro_lvm.scaffold.sources import among_others, bound_names, half, rename, with_imports, with_line

LatentKind = Literal["continuous", "discrete"]
"""What the latent of a new pair is."""

_ENTRY_POINTS = f'[project.entry-points."{catalogue.ENTRY_POINTS}"]'


@dataclass(frozen=True)
class NewPair:
    """What was written for a new pair.

    Attributes:
        written: The new files.
        changed: Files of the checkout that know of it now.
        reference: How the command line names the pair at once.
        installed_name: How it names the pair once the checkout is installed anew; None outside a checkout.
    """

    written: list[Path]
    changed: list[Path]
    reference: str
    installed_name: str | None = None


def new_pair(name: str, latent: LatentKind = "continuous", folder: str | Path = ".") -> NewPair:
    """Write a new pair that can be checked, fitted and evaluated at once, with its test.

    Inside a checkout of this project: ``models/NAME.py``, ``guides/NAME.py`` and ``tests/models/test_NAME.py``, and the
    lines in ``pyro_lvm/zoo.py`` and ``pyproject.toml`` by which the pair is found. Anywhere else: ``NAME.py`` with both
    halves, and ``test_NAME.py``.

    Args:
        name: Of the module: small letters, digits and underscores, as ``count_factors``.
        latent: ``"continuous"``, a linear map plus noise; or ``"discrete"``, clusters.
        folder: Where to write, or a folder of the checkout.

    Returns:
        What was written.

    Raises:
        PairError: The name or the kind is none, the name belongs to something else, or a file is there already; nothing
            has been written.
    """
    if latent not in get_args(LatentKind):
        raise PairError(f"--latent {latent}: expected one of {', '.join(get_args(LatentKind))}")
    _check_name(name)
    folder = Path(folder)
    checkout = _checkout_of(folder.resolve())
    if checkout is None:
        return _write_file(name, latent, folder)
    return _write_into(checkout, name, latent)


def _check_name(name: str) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        usable = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_0123456789")
        hint = f", such as '{usable}'" if usable else ""
        raise PairError(f"'{name}' is no name for a pair: expected small letters, digits and underscores{hint}")
    if keyword.iskeyword(name):
        raise PairError(f"'{name}' is a word of Python's own: choose another name for the pair")


def _check_free(name: str, paths: list[Path]) -> None:
    """Refuse what would replace a file or hide something else behind the name."""
    for path in paths:
        if path.exists():
            raise PairError(f"'{path}' is there already: choose another name, or remove it first")
    for pair in {name, _pair_name(name)} & set(catalogue.names()):
        raise PairError(f"there is a pair '{pair}' already: choose another name")
    known = None if name in sys.modules else importlib.util.find_spec(name)
    if name in sys.stdlib_module_names or name in sys.modules or (known is not None and known.loader is not None):
        raise PairError(f"'{name}' is a module that Python has already, which the file would hide: choose another name")


def _pair_name(name: str) -> str:
    """As the command line names an installed pair."""
    return name.replace("_", "-")


def _checkout_of(folder: Path) -> Path | None:
    """The checkout of this project that a folder lies in."""
    for candidate in (folder, *folder.parents):
        if all((candidate / path).exists() for path in ("pyproject.toml", "models", "guides", "pyro_lvm/zoo.py")):
            project = tomllib.loads((candidate / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
            if project.get("name") == "pyro_lvm":
                return candidate
    return None


def _source(module: str) -> str:
    return (files("pyro_lvm.scaffold") / f"{module}.py").read_text(encoding="utf-8")


def _write_file(name: str, latent: str, folder: Path) -> NewPair:
    path, test = folder / f"{name}.py", folder / f"test_{name}.py"
    _check_free(name, [path, test])
    tests = among_others(with_imports(_source(f"{latent}_tests"), [], without=f"pyro_lvm.scaffold.{latent}"))
    # Two blank lines end the imports; a module of one's own stands below the packages that are installed.
    tests = tests.replace("\n\n\n", f"\n\nfrom {name} import Guide, Model\n\n\n", 1)
    _write({path: among_others(_source(latent)), test: tests})
    return NewPair([path, test], [], f"{path}:model,guide")


def _write_into(checkout: Path, name: str, latent: str) -> NewPair:
    paths = [checkout / "models" / f"{name}.py", checkout / "guides" / f"{name}.py"]
    test = checkout / "tests" / "models" / f"test_{name}.py"
    _check_free(name, [*paths, *(checkout / "tests").rglob(test.name), test])
    model = "".join(part.capitalize() for part in name.split("_"))
    guide = f"{model}Guide"
    source, tests = _source(latent), _source(f"{latent}_tests")
    zoo, project = checkout / "pyro_lvm" / "zoo.py", checkout / "pyproject.toml"
    zoo_source, project_source = zoo.read_text(encoding="utf-8"), project.read_text(encoding="utf-8")
    taken = {model, guide} & (bound_names(source) | bound_names(tests)) | {name, model, guide} & bound_names(zoo_source)
    if taken:
        raise PairError(f"'{min(taken)}' means something else in the files that would use it: choose another name")
    imports = [
        f"from pyro_lvm.guides.{name} import {guide}",
        f"from pyro_lvm.models.{name} import {model}",
    ]
    contents = {
        paths[0]: half(source, "Model", model),
        paths[1]: half(source, "Guide", guide),
        test: rename(
            with_imports(tests, imports, without=f"pyro_lvm.scaffold.{latent}"), {"Model": model, "Guide": guide}
        ),
    }
    spec = (
        f"\n{name} = PairSpec(\n"
        f'    summary="{_summary(source)}",\n'
        f"    model={model},\n"
        f'    guides={{"linear": {guide}}},\n'
        ")\n"
    )
    pair = _pair_name(name)
    zoo_source = with_imports(zoo_source, imports) + spec
    project_source = with_line(project_source, _ENTRY_POINTS, f'{pair} = "pyro_lvm.zoo:{name}"')
    _write(contents)
    zoo.write_text(zoo_source, encoding="utf-8")
    project.write_text(project_source, encoding="utf-8")
    return NewPair([*paths, test], [zoo, project], f"{zoo}:{model},{guide}", pair)


def _summary(source: str) -> str:
    return source.splitlines()[0].strip('".').removeprefix("A pair with ")


def _write(contents: dict[Path, str]) -> None:
    for path, text in contents.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
