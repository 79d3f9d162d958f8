"""Pictures written to a folder, those that there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from pyro_lvm.errors import ArtifactError

# Dots an inch of every picture that is written.
DPI = 150


def write_figures(folder: str | Path, figures: Mapping[str, Figure | None]) -> list[Path]:
    """Write figures as PNG, 150 dots an inch.

    Args:
        folder: Where to write; made if it isn't there.
        figures: By the files' names without ending; None is left out.

    Returns:
        The files written.

    Raises:
        ArtifactError: The folder can't be written.
    """
    folder = Path(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            if figure is not None:
                figure.savefig(folder / f"{name}.png", dpi=DPI, bbox_inches="tight")
                written.append(folder / f"{name}.png")
    except OSError as error:
        raise ArtifactError(
            f"can't write figures to '{folder}' ({error.strerror or error}): choose another folder"
        ) from error
    return written
