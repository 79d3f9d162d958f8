"""A pair's draws in ArviZ's form: ``InferenceData`` of its 0.2x line, a ``DataTree`` for its 1.x line."""

from __future__ import annotations

import importlib
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pyro_lvm.errors import DataError, PairError
from pyro_lvm.evidence.observing import Sites, find_sites
from pyro_lvm.pair import Pair
from pyro_lvm.predictive.replicating import Replication, observed_rows, replicate
from pyro_lvm.predictive.weights import RowWeights, log_likelihood

Form = Literal["InferenceData", "DataTree"]
"""What ArviZ 0.2x takes, and what 1.x takes."""

_ONE_CHAIN = (
    "variational: independent draws from an amortized guide, kept as one chain; R-hat and effective sample sizes say "
    "nothing about it, pareto_k in sample_stats does"
)
_MARGINAL = "log p(x) of each row, its own latents integrated out by importance sampling; not conditional on them"
_PACKAGES = ("pyro_lvm", "pyro-ppl", "torch", "numpy", "xarray")


def to_arviz(
    pair: Pair,
    x: Tensor,
    *,
    num_draws: int = 100,
    replication: Replication = "posterior",
    num_particles: int = 100,
    feature_names: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    row_names: Sequence[Any] | None = None,
    labels: Any = None,
    in_units: Callable[[Tensor], Tensor] | None = None,
    form: Form | None = None,
    seed: int = 0,
) -> Any:
    """Draw from a pair, and hand the draws to ArviZ.

    Groups, with dimensions ``chain`` (one), ``draw``, ``row`` and, of a row, ``feature``, or ``height`` and ``width``
    (and ``channel``):

    - ``posterior``: latents from the guide, each row's own (``row``, ``latent``) and what all rows share.
    - ``sample_stats``: ``log_weight``, log p(x, z) - log q(z | x), and ``pareto_k`` of each row, where rows share no
      latents.
    - ``posterior_predictive``: replicates of the rows, complete; missing entries are thereby predicted.
    - ``prior``, ``prior_predictive``: the same from the model alone.
    - ``observed_data``: the rows, NaN where missing.
    - ``log_likelihood``: log p(x) of each row *marginal* over its own latents, by importance sampling, at each draw of
      what rows share; where they share nothing the parameters are a point, and there is one draw. See :func:`loo`.
    - ``constant_data``: ``missing``, and ``label`` where labels are given.

    All draws are in memory: rows times draws times features, for a part of the rows if they are many.

    Args:
        pair: Any pair.
        x: Rows as the pair sees them, shape (rows, ...), NaN where missing.
        num_draws: Draws of everything.
        replication: Of ``posterior_predictive``: ``"posterior"``, the rows seen once more, from the latents in
            ``posterior``; or ``"mixed"``, new rows.
        num_particles: Draws of a row's own latents for each ``log_likelihood``, where rows share others.
        feature_names: The features' names.
        image_shape: (H, W), (C, H, W) or (H, W, C), where a row is an image.
        row_names: What the rows are called; None numbers them.
        labels: One a row.
        in_units: Takes rows as the pair sees them to the data's units, for the observed and the predicted ones.
        form: ``"InferenceData"`` or ``"DataTree"``; None for what the installed ArviZ takes.
        seed: Of all draws; the caller's random state is left as it was.

    Returns:
        An ``arviz.InferenceData`` or an ``xarray.DataTree``; either is saved by its ``to_netcdf(path)``.

    Raises:
        DataError: Counts or shapes don't fit, or the form isn't to be had.
        PairError: The pair can't be drawn from; see :func:`posterior_predictive`.

    Example:
        >>> import torch
        >>> from pyro_lvm import Pair
        >>> from pyro_lvm.guides import LinearGaussian
        >>> from pyro_lvm.models import PPCA
        >>> drawn = to_arviz(Pair(PPCA(5, 2), LinearGaussian(5, 2)), torch.randn(20, 5), num_draws=30, form="DataTree")
        >>> dict(drawn["posterior"].sizes)
        {'chain': 1, 'draw': 30, 'row': 20, 'latent': 2}
    """
    sites = find_sites(pair, x)
    form = form if form is not None else _installed_form()
    own = _gather(pair, x, num_draws, "posterior", seed)
    replicated = own if replication == "posterior" else _gather(pair, x, num_draws, replication, seed)
    prior = _gather(pair, x, num_draws, "prior", seed)
    weights = RowWeights(own["log_weights"]) if "log_weights" in own else None
    if weights is not None:
        likelihood = weights.log_evidence[None]
    else:
        likelihood = log_likelihood(pair, x, num_draws, num_particles=num_particles, seed=seed)
    naming = _Naming(sites, x, feature_names, image_shape, in_units, _latent_dim(own["latents"]))
    observed = {name: naming.data(name, observed_rows(pair, x, name), ("row",)) for name in sites.observed}
    drawn = ("chain", "draw", "row")
    groups: dict[str, dict[str, tuple[tuple[str, ...], Any]]] = {
        "posterior": naming.latents(own),
        "sample_stats": {},
        "posterior_predictive": {
            name: naming.data(name, replicated["observed"][name][None], drawn) for name in sites.observed
        },
        "prior": naming.latents(prior),
        "prior_predictive": {name: naming.data(name, prior["observed"][name][None], drawn) for name in sites.observed},
        "observed_data": observed,
        "log_likelihood": {name: (drawn, likelihood[None].numpy()) for name in sites.observed[:1]},
        "constant_data": {
            "missing" if len(observed) == 1 else f"{name}_missing": (dims, np.isnan(values).astype(np.int8))
            for name, (dims, values) in observed.items()
            if values.dtype.kind == "f"
        },
    }
    if weights is not None:
        groups["sample_stats"]["log_weight"] = (drawn, weights.log_weights[None].numpy())
        groups["sample_stats"]["pareto_k"] = (("row",), weights.pareto_k.numpy())
    if labels is not None:
        groups["constant_data"]["label"] = (("row",), np.asarray(labels))
    about = {
        "created_at": datetime.now(UTC).isoformat(),
        "inference_library": "pyro_lvm",
        "inference_library_version": version("pyro_lvm"),
        "inference": _ONE_CHAIN,
        "pair": repr(pair),
        "pair_config": json.dumps(pair.config),
        "seed": seed,
        "versions": json.dumps({"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}),
    }
    notes: dict[str, dict[str, str]] = {
        "posterior_predictive": {"replication": replication},
        "log_likelihood": {
            "meaning": _MARGINAL,
            "parameters": "draws" if sites.shared else "point",
        },
    }
    coords = naming.coords(len(x), row_names)
    datasets = {
        name: _dataset(variables, coords, {**about, **notes.get(name, {})})
        for name, variables in groups.items()
        if variables
    }
    return _assemble(datasets, about, form)


def loo(data: Any) -> Any:
    """Leave-one-out cross-validation by ArviZ, where it makes sense: where draws of shared latents are draws.

    Leaving a row out is done by reweighting draws of what the rows have told of the parameters. Parameters that are a
    point have no draws to reweight: the sum of ``log_likelihood`` would pass for a cross-validation and be none. Judge
    such a model on held-out rows.

    Args:
        data: What :func:`to_arviz` gave.

    Returns:
        ArviZ's ``ELPDData``.

    Raises:
        PairError: The parameters are a point.
        DataError: ``data`` has no ``log_likelihood``, or ArviZ isn't there for its form.
    """
    try:
        attributes = data["log_likelihood"].attrs
    except KeyError as error:
        raise DataError("data has no group log_likelihood: expected what to_arviz gave") from error
    if attributes.get("parameters") == "point":
        raise PairError(
            "leave-one-out makes no sense for this pair: its parameters are a point, and there are no draws of them to "
            "reweight; judge it by its evidence on held-out rows"
        )
    package = "arviz_stats" if isinstance(data, xr.DataTree) else "arviz"
    return _import(package).loo(data)


class _Naming:
    """Dimensions and coordinates of what a pair draws."""

    def __init__(
        self,
        sites: Sites,
        x: Tensor,
        feature_names: Sequence[str] | None,
        image_shape: Sequence[int] | None,
        in_units: Callable[[Tensor], Tensor] | None,
        latent_dim: int | None,
    ) -> None:
        self._sites = sites
        self._in_units = in_units
        self._latent_dim = latent_dim
        entries = x[0].numel()
        if image_shape is not None and math.prod(image_shape) != entries:
            raise DataError(f"image_shape={tuple(image_shape)} for rows of {entries} entries: expected as many pixels")
        if feature_names is not None and len(feature_names) != entries:
            raise DataError(f"{len(feature_names)} feature names for rows of {entries} entries: expected one each")
        self._row_shape = tuple(image_shape) if image_shape is not None else (entries,)
        self._row_dims = ("feature",) if image_shape is None else _image_dims(self._row_shape)
        self._feature_names = list(range(entries)) if feature_names is None else [str(name) for name in feature_names]

    def data(self, name: str, values: Tensor, lead: tuple[str, ...]) -> tuple[tuple[str, ...], Any]:
        """An observed site's values, and its dimensions after those that lead."""
        if name not in self._sites.whole_rows:
            rest = values.shape[len(lead) :]
            return (*lead, *(f"{name}_dim_{i}" for i in range(len(rest)))), values.numpy()
        if self._in_units is not None:
            values = self._in_units(values)
        shaped = values.reshape(*values.shape[: len(lead)], *self._row_shape)
        return (*lead, *self._row_dims), shaped.numpy()

    def latents(self, draws: Mapping[str, Any]) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Latents with their dimensions, a row's own and the shared ones."""
        named = {}
        for name, value in draws["latents"].items():
            rest = value.shape[2:]
            own = ("latent",) if rest == (self._latent_dim,) else tuple(f"{name}_dim_{i}" for i in range(len(rest)))
            named[name] = (("chain", "draw", "row", *own), value[None].numpy())
        for name, value in draws["shared"].items():
            own = tuple(f"{name}_dim_{i}" for i in range(value.dim() - 1))
            named[name] = (("chain", "draw", *own), value[None].numpy())
        return named

    def coords(self, num_rows: int, row_names: Sequence[Any] | None) -> dict[str, Any]:
        """Coordinates of the dimensions with names."""
        if row_names is not None and len(row_names) != num_rows:
            raise DataError(f"{len(row_names)} row names for {num_rows} rows: expected one each")
        named: dict[str, Any] = {"row": np.arange(num_rows) if row_names is None else np.asarray(row_names)}
        if self._row_dims == ("feature",):
            named["feature"] = np.asarray(self._feature_names)
        return named


def _gather(pair: Pair, x: Tensor, num_draws: int, replication: Replication, seed: int) -> dict[str, Any]:
    parts = list(replicate(pair, x, num_draws, replication=replication, seed=seed))
    gathered: dict[str, Any] = {
        kind: {name: torch.cat([getattr(part, kind)[name] for part in parts]) for name in getattr(parts[0], kind)}
        for kind in ("observed", "latents", "shared")
    }
    weights = [part.log_weights for part in parts if part.log_weights is not None]
    if weights:
        gathered["log_weights"] = torch.cat(weights)
    return gathered


def _latent_dim(latents: Mapping[str, Tensor]) -> int | None:
    """The size of the dimension ``latent``: that of the first latent that is a vector a row."""
    return next((int(value.shape[2]) for value in latents.values() if value.dim() == 3), None)


def _image_dims(shape: tuple[int, ...]) -> tuple[str, ...]:
    if len(shape) == 2:
        return "height", "width"
    if len(shape) == 3:
        return ("channel", "height", "width") if shape[0] in (1, 3) else ("height", "width", "channel")
    raise DataError(f"image_shape={shape}: expected (H, W), (C, H, W) or (H, W, C)")


def _dataset(
    variables: Mapping[str, tuple[tuple[str, ...], Any]], coords: Mapping[str, Any], attributes: Mapping[str, Any]
) -> xr.Dataset:
    used: dict[str, int] = {
        dim: size for dims, values in variables.values() for dim, size in zip(dims, values.shape, strict=True)
    }
    own = {dim: coords[dim] if dim in coords else np.arange(size) for dim, size in used.items()}
    return xr.Dataset(dict(variables), coords=own, attrs=dict(attributes))


def _assemble(datasets: Mapping[str, xr.Dataset], attributes: Mapping[str, Any], form: Form) -> Any:
    if form == "DataTree":
        return xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(attributes)), **datasets})
    if form != "InferenceData":
        raise DataError(f"form={form!r}: expected 'InferenceData' or 'DataTree'")
    arviz = _import("arviz")
    if not hasattr(arviz, "InferenceData"):
        raise DataError(
            f"form='InferenceData' with arviz {arviz.__version__}, which has none: choose form='DataTree', or install "
            "arviz below 1"
        )
    return arviz.InferenceData(attrs=dict(attributes), **datasets)


def _installed_form() -> Form:
    return "InferenceData" if hasattr(_import("arviz"), "InferenceData") else "DataTree"


def _import(package: str) -> Any:
    # Seconds long, and only wanted here.
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DataError(f"{package.replace('_', '-')} isn't installed: install it with pip") from error
