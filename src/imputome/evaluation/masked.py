"""Masked data sets in one AnnData: what is left in ``X``, the truth beside it, and back to a `Split`.

``layers["truth"]`` is sparse: the values of the hidden entries, or the molecules that were split off. Hidden real
values may be 0, so for those ``layers["hidden"]`` marks the entries. Both are layers so that they follow when the
AnnData is subset or reordered. ``uns["imputome_mask"]`` says how it was made.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data, as_data, in_memory
from imputome.errors import InputError
from imputome.evaluation.splits import SCHEMES, Split, make_split, scheme_options
from imputome.inspection.state import inspect

if TYPE_CHECKING:
    from anndata import AnnData

KEY = "imputome_mask"


def mask(
    adata: AnnData,
    *,
    scheme: str,
    fraction: float | None = None,
    seed: int = 0,
    layer: str | None = None,
    label: str | None = None,
    options: dict[str, Any] | None = None,
) -> AnnData:
    """Hide values of an AnnData and keep the truth beside them.

    Parameters
    ----------
    adata : n cells x G genes of counts, or of real values; it is left as it is.
    scheme, fraction : a name of `SCHEMES`, and the share to hide (None: the scheme's default). Real values are hidden
        in all rows, except that `features` hides them in its test rows.
    layer : layer to mask; None takes ``X``.
    label : column of ``obs`` that stratifies the test rows of `features`.
    options : further options of the scheme. Where these are texts, ``gc`` is a column of ``var`` and ``coverage`` a
        layer.

    Returns
    -------
    A new AnnData with ``obs``, ``var`` and ``uns`` of the input. Its layers, ``raw``, ``obsm``, ``varm``, ``obsp`` and
    ``varp`` were made from the values that are now hidden, so they are left out.

    Raises
    ------
    InputError
        The data cannot be masked that way; the message says what to choose instead.
    """
    from anndata import AnnData

    allowed = scheme_options(scheme)
    given = _resolved(adata, scheme, label, dict(options or {}))
    data = _data(adata, scheme, layer)
    split = make_split(scheme, data, rng=np.random.default_rng(seed), fraction=fraction, **given)
    asked = allowed.get("fraction") if fraction is None else fraction
    record: dict[str, Any] = {
        "scheme": scheme,
        "kind": data.kind,
        "fraction_realised": split.fraction,
        "ratio": split.ratio,
        "leaky": split.leaky,
        "seed": seed,
        "layer": layer or "X",
        "options": json.dumps({**(options or {}), **({"labels": label} if label else {})}, default=str),
        "version": version("imputome"),
    }
    if asked is not None:
        record["fraction_asked"] = asked
    return AnnData(
        split.train.X,
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns={**{key: value for key, value in adata.uns.items() if key != "imputome"}, KEY: record},
        layers=_truth_layers(split),
    )


def read_mask(adata: AnnData) -> Split:
    """The `Split` that `mask` made; the AnnData may have been subset or reordered since.

    Raises
    ------
    InputError
        The AnnData was not made by `mask`, or lost its truth.
    """
    import scipy.sparse as sp

    if KEY not in adata.uns or "truth" not in adata.layers:
        raise InputError(f'there is no uns["{KEY}"] with layers["truth"]: make the file with `imputome mask`')
    record = adata.uns[KEY]
    scheme, kind = str(record["scheme"]), str(record["kind"])
    names = {"obs_names": adata.obs_names, "var_names": adata.var_names}
    train = as_data(in_memory(adata.X), kind=kind, **names)  # type: ignore[arg-type]
    truth = in_memory(adata.layers["truth"])
    common: dict[str, Any] = {
        "scheme": scheme,
        "train": train,
        "ratio": float(record["ratio"]),
        "fraction": float(record["fraction_realised"]),
        "leaky": bool(record["leaky"]),
    }
    if scheme in ("thin", "thin_nb"):
        return Split(test=as_data(truth, kind="counts").X, **common)
    if kind == "counts":
        positions = as_data(truth, kind="counts").X.tocoo()
        return Split(i=positions.row, j=positions.col, truth=positions.data, **common)
    if "hidden" not in adata.layers:
        raise InputError('layers["hidden"] is gone, and without it a hidden 0 cannot be told: mask the data again')
    hidden = sp.csr_array(in_memory(adata.layers["hidden"]))
    hidden.sort_indices()
    places = hidden.tocoo()
    values = Data(X=truth, kind="real", obs_names=train.obs_names, var_names=train.var_names)
    i, j = places.row[places.data], places.col[places.data]
    return Split(i=i, j=j, truth=values.entries(i, j).astype(train.X.dtype), **common)


def _truth_layers(split: Split) -> dict[str, Any]:
    import scipy.sparse as sp

    if split.test is not None:
        return {"truth": split.test}
    shape, places = split.train.shape, (split.i, split.j)
    layers = {"truth": sp.csr_array((split.truth, places), shape=shape)}
    if split.train.kind == "real":
        assert split.i is not None  # noqa: S101
        layers["hidden"] = sp.csr_array((np.ones(len(split.i), dtype=bool), places), shape=shape)
    return layers


def _resolved(adata: AnnData, scheme: str, label: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options with what they name put in their place."""
    if SCHEMES[scheme].kind == "real" and options.setdefault("rows", "all") != "all":
        raise InputError("a masked file holds all rows in one matrix: leave rows out")
    if label is not None:
        if scheme != "features":
            raise InputError(f"only features has test rows for a label to stratify, not {scheme}: leave the label out")
        if label not in adata.obs:
            raise InputError(
                f"obs has no column {label!r}; columns: {', '.join(map(str, adata.obs.columns)) or 'none'}"
            )
        options["labels"] = adata.obs[label]
    if isinstance(name := options.get("gc"), str):
        if name not in adata.var:
            raise InputError(f"var has no column {name!r}; columns: {', '.join(map(str, adata.var.columns)) or 'none'}")
        options["gc"] = adata.var[name]
    if isinstance(name := options.get("coverage"), str):
        if name not in adata.layers:
            raise InputError(f"there is no layer {name!r}; layers here: {', '.join(adata.layers) or 'none'}")
        options["coverage"] = in_memory(adata.layers[name])
    return options


def _data(adata: AnnData, scheme: str, layer: str | None) -> Data:
    """The matrix as the scheme takes it."""
    report = inspect(adata, layer=layer)
    if report.errors:
        raise InputError(report.errors[0])
    kind = SCHEMES[scheme].kind
    if (report.state == "counts") != (kind == "counts"):
        wanted = "counts" if kind == "counts" else "real values"
        fit = [name for name, known in SCHEMES.items() if (known.kind == "counts") == (report.state == "counts")]
        raise InputError(
            f"{scheme} hides {wanted}, and {report.where} looks {report.state}: pass the layer that holds {wanted}, or "
            f"choose one of {', '.join(fit)}"
        )
    X = in_memory(adata.X if layer is None else adata.layers[layer])
    return as_data(X, kind=kind, obs_names=adata.obs_names, var_names=adata.var_names)
