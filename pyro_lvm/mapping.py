"""A saved run's latent space: its pictures, and how well it keeps the neighbourhoods of rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_lvm import evidence
from pyro_lvm.evidence import Terms
from pyro_lvm.latent import LatentSpace, Neighbourhoods, neighbourhoods
from pyro_lvm.latent_figures import LatentFigures
from pyro_lvm.pair import acceptable
from pyro_lvm.reading import LoadedRun, load_run


@dataclass(frozen=True)
class RunLatent:
    """What a run's latent space is like.

    Attributes:
        neighbourhoods: How well it keeps neighbours.
        terms: Which dimensions it uses, and what they cost.
        written: The figures.
    """

    neighbourhoods: Neighbourhoods
    terms: Terms
    written: list[Path]

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        units = [unit.to_json() for unit in self.terms.units]
        return {
            "neighbourhoods": self.neighbourhoods.to_json(),
            "units": units,
            "written": [path.name for path in self.written],
        }


def latent_run(
    run: str | Path | LoadedRun,
    out: str | Path,
    *,
    site: str | None = None,
    num_neighbours: int = 5,
    root: str | None = None,
    pair: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> RunLatent:
    """Draw a saved run's latent space, and say how well it keeps the neighbourhoods of its rows.

    Args:
        run: Folder of a run.
        out: Folder for the figures.
        site: The latent's name; None where each row has but one that is continuous.
        num_neighbours: k of the neighbourhoods.
        root: Folder of the run's own named data set.
        pair: The pair's file, ``FILE.py:MODEL,GUIDE``, where it was defined in one.
        device: Where to compute.
        seed: Of everything drawn.

    Returns:
        The figures.

    Raises:
        PyroLvmError: Anything given is unusable.
    """
    loaded = load_run(run, root=root, pair=pair, device=device)
    dataset, rows, labels = loaded.dataset, loaded.dataset.rows, loaded.dataset.labels
    accepted = acceptable(loaded.pair, rows)
    rows, labels = rows[accepted], None if labels is None else labels[accepted]
    scaled = loaded.scaling.transform(rows)
    space = LatentSpace(loaded.pair, scaled, site=site)
    terms = evidence.elbo_terms(loaded.pair, scaled, 1, num_rows=loaded.num_training_rows, seed=seed)
    units = next((unit for unit in terms.units if unit.site == space.site), None)
    kept = neighbourhoods(scaled, space.embed(), labels, num_neighbours=num_neighbours, seed=seed)
    figures = LatentFigures(
        space,
        units,
        labels=labels,
        label_names=dataset.label_names,
        feature_names=dataset.feature_names,
        image_shape=dataset.image_shape,
        inverse=loaded.scaling.inverse,
        seed=seed,
    )
    return RunLatent(kept, terms, figures.save(out))
