#!/usr/bin/env bash
# What can only be seen on an installed copy: types and floors (the checkers don't follow an editable install's mapping of
# models/ and guides/), the docstrings' examples, and that the wheel works in a folder where no checkout is.
set -euo pipefail
bin=$(cd "$(dirname "${1:?usage: check.sh VENV/bin}")" && pwd)/$(basename "$1")
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What an earlier build left would be packed into the wheel.
rm -rf "$root/build"
"$bin/python" -m pip wheel --quiet --no-deps --no-build-isolation --disable-pip-version-check -w "$work/wheel" "$root"
"$bin/python" -m pip install --quiet --no-deps --disable-pip-version-check --target "$work/installed" "$work"/wheel/*.whl
mkdir "$work/clean" && cd "$work/clean"
export PYTHONPATH=$work/installed

"$bin/python" - <<'PY'
import os, pathlib, pyro_lvm, pyro_lvm.models, pyro_lvm.guides
installed = pathlib.Path(os.environ["PYTHONPATH"])
for module in (pyro_lvm, pyro_lvm.models, pyro_lvm.guides):
    assert installed in pathlib.Path(module.__file__).parents, f"{module.__name__} came from {module.__file__}"
top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info") and path.name != "bin"}
assert top == {"pyro_lvm"}, f"the wheel puts more than pyro_lvm into site-packages: {top}"
PY
"$bin/lint-imports" --no-cache --config "$root/pyproject.toml"
"$bin/mypy" --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache" -p pyro_lvm
"$bin/pytest" -q -p no:cacheprovider --rootdir "$work/clean" --doctest-modules --pyargs pyro_lvm
"$bin/python" -m pyro_lvm fit ppca --data digits --latent-dim 2 --steps 50 --out run --quiet
"$bin/python" -m pyro_lvm evaluate run --json >evaluated.json
test -s evaluated.json
echo "the wheel works"
