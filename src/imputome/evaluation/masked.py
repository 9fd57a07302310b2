"""A masked data set in one AnnData: the training part in ``X`` with the truth beside it, and back to a `Split`.

``layers["truth"]`` is sparse: the values of the hidden entries, or the molecules that were split off. A hidden real
value may be 0, so for real values ``layers["hidden"]`` marks the entries. Both are layers, so that they stay in place
when the AnnData is subset or reordered. ``uns["imputome_mask"]`` records how the mask was made.
"""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.arrays import in_memory
from imputome.core.data import Data, Kind, as_data
from imputome.errors import InputError
from imputome.evaluation.splits import KIND_NAME, SCHEMES, UNMASKED, Split, make_split, scheme_options
from imputome.inspection.features import ALL, CODES, features_of
from imputome.inspection.state import InputReport
from imputome.result.adapt import evaluated, part_of

if TYPE_CHECKING:
    from anndata import AnnData

MASK_KEY = "imputome_mask"  # in uns


def mask(
    adata: AnnData,
    *,
    scheme: str,
    fraction: float | None = None,
    seed: int = 0,
    layer: str | None = None,
    label: str | None = None,
    feature_type: str | None = None,
    keep_summary_rows: bool = False,
    options: dict[str, Any] | None = None,
    kind: Kind | None = None,
    round_counts: str | None = None,
    allowed: tuple[str, ...] = (),
) -> AnnData:
    """A new AnnData with values hidden by a scheme, and the truth beside them.

    What a tool makes of ``X`` of the result can be scored with `imputome.score`.

    Parameters
    ----------
    adata : AnnData of shape (n, G)
        Raw counts or real values; it is not changed.
    scheme : str
        How values are hidden: a name of `imputome.evaluation.splits.SCHEMES`.
    fraction : float, optional
        Share of the molecules, nonzeros or values to hide; by default that of the scheme.
    seed : int, default=0
        The same data, options and seed hide the same.
    layer : str, optional
        Layer with the values, or ``"raw"``; None takes ``X``.
    label : str, optional
        Column of ``obs`` that stratifies the rows in which the scheme ``features`` hides values.
    feature_type : str, optional
        Type of the features in which values are hidden, as `imputome.impute` chooses them; the others stay in ``X``.
    keep_summary_rows : bool, default=False
        Whether values are hidden in summary rows too.
    options : dict, optional
        Further options of the scheme; texts for ``gc`` (a column of ``var``) and ``coverage`` (a layer).
    kind, round_counts, allowed
        As in `imputome.result.adapt.evaluated`.

    Returns
    -------
    AnnData of shape (n, G)
        What is left, in ``X``; ``layers["truth"]`` (and, of real values, ``layers["hidden"]``), and the record in
        ``uns["imputome_mask"]``. Real values are hidden in all rows, except that ``features`` hides them in its test
        rows. Layers, ``raw``, ``obsm``, ``varm``, ``obsp`` and ``varp`` of the input may contain what is now hidden, so
        they are left out.

    Raises
    ------
    InputError
        No such scheme, or one for data of the other kind; values on a scale of counts that are no counts.

    Examples
    --------
    >>> import imputome
    >>> masked = imputome.mask(imputome.datasets.pbmc68k()[:50, :20], scheme="thin", fraction=0.1)
    >>> list(masked.layers), masked.uns["imputome_mask"]["scheme"]
    (['truth'], 'thin')
    """
    from anndata import AnnData

    if scheme == UNMASKED:
        text = f"the scheme none hides nothing: choose one of {', '.join(SCHEMES)}"
        raise InputError(text, code="nothing-to-hide", parameter="scheme")
    fraction = scheme_options(scheme).get("fraction") if fraction is None else fraction
    report, data = evaluated(
        adata,
        layer=layer,
        feature_type=feature_type,
        keep_summary_rows=keep_summary_rows,
        kind=kind,
        round_counts=round_counts,
        seed=seed,
        allowed=allowed,
    )
    data = data.to_memory()
    for message in report.warnings:
        if message.code in CODES:
            warnings.warn(message, stacklevel=2)
    part = part_of(adata, report)
    scheme_values = _resolved(part, scheme, label, dict(options or {}))
    _check_kind(report, data, scheme)
    split = make_split(scheme, data, rng=np.random.default_rng(seed), fraction=fraction, **scheme_values)
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
    if fraction is not None:
        record["fraction_asked"] = fraction
    X, layers = split.train.X, _truth_layers(split)
    if report.left_out:
        record |= {"feature_type": report.feature_type or ALL, "keep_summary_rows": keep_summary_rows}
        X, layers = _with_others(adata, report, X, layers)
    return AnnData(
        X,
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns={**{key: value for key, value in adata.uns.items() if key != "imputome"}, MASK_KEY: record},
        layers=layers,
    )


def read_mask(adata: AnnData) -> Split:
    """The `Split` that `mask` made; the AnnData may have been subset or reordered since then."""
    import scipy.sparse as sp

    if MASK_KEY not in adata.uns or "truth" not in adata.layers:
        raise InputError("this is not a masked data set: make one with `imputome mask`", code="not-a-mask")
    record = adata.uns[MASK_KEY]
    scheme, kind = str(record["scheme"]), str(record["kind"])
    if "feature_type" in record:
        keep = bool(record.get("keep_summary_rows", True))
        features = features_of(adata.var, str(record["feature_type"]), keep_summary_rows=keep)
        adata = adata if features is None else adata[:, features.used]
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
        raise InputError('layers["hidden"] is missing: mask the data again', code="not-a-mask")
    hidden = sp.csr_array(in_memory(adata.layers["hidden"]))
    hidden.sort_indices()
    positions = hidden.tocoo()
    values = Data(X=truth, kind="real", obs_names=train.obs_names, var_names=train.var_names)
    i, j = positions.row[positions.data], positions.col[positions.data]
    return Split(i=i, j=j, truth=values.entries(i, j).astype(train.X.dtype), **common)


def _with_others(adata: AnnData, report: InputReport, X: Any, layers: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """``X`` with the features in which nothing was hidden, and the layers with nothing there."""
    import scipy.sparse as sp

    used = report.used
    assert used is not None  # noqa: S101
    rest = adata[:, ~used]
    others = in_memory(rest.X if report.layer is None else rest.layers[report.layer])
    places = np.argsort(np.r_[np.flatnonzero(used), np.flatnonzero(~used)])
    nothing = sp.csr_array(others.shape)
    if isinstance(X, np.ndarray):
        X = np.hstack([X, others if isinstance(others, np.ndarray) else others.toarray()])
    else:
        X = sp.hstack([X, sp.csr_array(others)]).tocsr()
    layers = {name: sp.hstack([layer, nothing.astype(layer.dtype)]) for name, layer in layers.items()}
    return X[:, places], {name: layer.tocsr()[:, places] for name, layer in layers.items()}


def _truth_layers(split: Split) -> dict[str, Any]:
    import scipy.sparse as sp

    if split.test is not None:
        return {"truth": split.test}
    shape, positions = split.train.shape, (split.i, split.j)
    layers = {"truth": sp.csr_array((split.truth, positions), shape=shape)}
    if split.train.kind == "real":
        assert split.i is not None  # noqa: S101
        layers["hidden"] = sp.csr_array((np.ones(len(split.i), dtype=bool), positions), shape=shape)
    return layers


def _resolved(adata: AnnData, scheme: str, label: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with columns and layers in place of their names."""
    if SCHEMES[scheme].kind == "real" and options.setdefault("rows", "all") != "all":
        raise InputError("a masked file holds all rows: leave out rows", code="unknown-option", parameter="rows")
    if label is not None:
        if scheme != "features":
            raise InputError(
                f"only the scheme features has test rows to stratify, not {scheme}: leave out {{label}}",
                code="labels-without-test-rows",
                label=label,
            )
        options["labels"] = _entry(adata.obs, "obs has no column", label, "label", "no-obs-column")
    if isinstance(name := options.get("gc"), str):
        options["gc"] = _entry(adata.var, "var has no column", name, "gc", "no-var-column")
    if isinstance(name := options.get("coverage"), str):
        options["coverage"] = in_memory(_entry(adata.layers, "there is no layer", name, "coverage", "layer-missing"))
    return options


def _entry(table: Any, missing: str, name: str, parameter: str, code: str) -> Any:
    """The column or layer ``name``."""
    if name not in table:
        raise InputError(
            f"{missing} {name!r}: choose from {', '.join(map(str, table)) or 'none'}", code=code, parameter=parameter
        )
    return table[name]


def _check_kind(report: InputReport, data: Data, scheme: str) -> None:
    """Check that the scheme hides values of this kind."""
    kind = SCHEMES[scheme].kind
    if data.kind != kind:
        hides = KIND_NAME[kind]
        fitting = [name for name, known in SCHEMES.items() if known.kind == data.kind]
        raise InputError(
            f"the scheme {scheme} hides {hides}, and {report.where} looks {report.state}: pass {{layer}} with "
            f"{hides}, or {{kind}}, or choose one of {', '.join(fitting)}",
            code="scheme-of-other-kind",
            layer=...,
            kind=kind,
        )
