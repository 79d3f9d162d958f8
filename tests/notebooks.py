"""Execute the notebooks: shortly, to see that they run, or in full, to keep what they show.

    python tests/notebooks.py [--full] [NOTEBOOK ...]

Without ``--full`` each runs with ``PYRO_LVM_SHORT`` set in an empty folder, two at a time, and nothing is kept. With it
they are executed one after the other and written back with their outputs.
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"


def execute(path: Path, full: bool) -> str:
    """Run a notebook in an empty folder; a line on how long it took. A cell that fails raises."""
    notebook = nbformat.read(path, as_version=4)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # Long timeouts: a busy machine is no mistake in a notebook.
        NotebookClient(
            notebook,
            timeout=600,
            startup_timeout=300,
            record_timing=False,
            resources={"metadata": {"path": folder}},
        ).execute()
    if full:
        nbformat.write(notebook, path)
    return f"{path.name}: {time.perf_counter() - began:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute the notebooks in examples/.")
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.ipynb")))
    parser.add_argument("--full", action="store_true", help="with full settings, in place, outputs kept")
    options = parser.parse_args()
    if not options.full:
        os.environ["PYRO_LVM_SHORT"] = "1"
    with ProcessPoolExecutor(1 if options.full else 2) as pool:
        for line in pool.map(execute, options.notebooks, [options.full] * len(options.notebooks)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
