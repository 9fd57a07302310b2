"""What is on the page of one result: gathered from its record and from a sample of its values, no drawing.

Letters: ``n`` cells, ``G`` genes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data, in_memory
from imputome.core.imputation import Imputation
from imputome.core.scales import TARGET, Scale, scale_to_counts
from imputome.errors import InputError
from imputome.report.before_after import Map, Measured, Values, measure
from imputome.report.html import citation
from imputome.report.html.facts import facts, history, parameters, race_basis, verdict_basis
from imputome.result.record import Race, Record, Verdict, find_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

LABELS = 24  # different ones that can be told apart in a picture, at most
# columns of obs that say what a cell is, best first
USUAL = ("cell_type", "celltype", "cell_types", "type", "label", "labels", "cluster", "clusters", "leiden", "louvain")
FURTHER = ("subtype", "group", "condition", "batch", "sample", "donor")


@dataclass(frozen=True)
class Content:
    """All that the page of one result shows.

    Attributes
    ----------
    key : name of the result.
    kind : ``counts`` or ``real``.
    source : file, or what else the input was.
    command : what was typed to get the result; empty if that is not known.
    made_by : what was typed to get this page, where that is another command.
    counted : whether values are counts, so that zeros and library sizes can be looked at.
    facts, parameters, versions : (term, text).
    verdict, verdict_basis : of the check, None if there was none, and what it rests on as (term, text).
    race, race_basis : how the method was chosen.
    history : a row for each step of the fit.
    measured : a sample before and after.
    label : name of the labels that cells are coloured by; empty for their library size, or mean.
    labels : one for each cell of the sample, or None.
    citation, software : how to cite the method and imputome.
    shape : of the result.
    """

    key: str
    kind: str
    source: str
    command: str
    made_by: str
    counted: bool
    facts: list[tuple[str, str]]
    parameters: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    verdict: Verdict | None
    verdict_basis: list[tuple[str, str]]
    race: Race | None
    race_basis: list[tuple[str, str]]
    history: pd.DataFrame | None
    measured: Measured
    label: str
    labels: np.ndarray | None
    citation: citation.Citation | None
    software: str
    shape: tuple[int, int]
    method: str
    words: tuple[str, str] = field(default=("cells", "genes"))

    @property
    def genes(self) -> pd.DataFrame:
        """A row for each gene: what was measured on the sample, and what the check says of it.

        Zeros are those of the check, where it has them.
        """
        found = self.measured.genes
        if not self.counted:
            found = found.drop(columns=["zeros_before", "zeros_after", "confident", "raised"], errors="ignore")
        if self.verdict is None or self.verdict.genes.empty:
            return found
        table = self.verdict.genes
        if table.index.is_unique and found.index.is_unique:
            table = table.set_axis(table.index.astype(str)).reindex(found.index)
        elif len(table) != len(found):  # genes of one name, of which some were not looked at: which, nobody knows
            return found
        return found.assign(**{str(name): table[name].to_numpy() for name in table})


def of_result(
    adata: AnnData,
    *,
    key: str | None = None,
    label: str | None = None,
    source: str = "",
    command: str | None = None,
    made_by: str = "",
    map: Map = "umap",
    seed: int = 0,
) -> Content:
    """The page of a result that is stored in an AnnData.

    Parameters
    ----------
    key : name of the result; None takes the only one.
    label : column of ``obs`` to colour cells by; None takes one that looks like labels, if there is one.
    source : what the AnnData was read from.
    command, made_by : what was typed to get the result, and this page.
    map : how cells are placed, ``"pca"`` or ``"umap"``.
    seed : of the sample of cells and of the map.

    Raises
    ------
    InputError
        No such result, its values or what was imputed are not there any more, no such column.
    """
    where = source or "this AnnData"
    key, record = find_record(adata, key)
    data = _input(adata, record.input.layer, where)
    columns = None
    if key in adata.layers:
        matrix, var_names = adata.layers[key], adata.var_names
    elif key in adata.obsm and hasattr(adata.obsm[key], "columns"):
        matrix, var_names = adata.obsm[key].to_numpy(), adata.obsm[key].columns
        columns = adata.var_names.get_indexer(var_names)
        if not adata.var_names.is_unique or (columns < 0).any():
            raise InputError(f"the genes of obsm[{key!r}] are not those of {where}: impute again")
    else:
        raise InputError(f"{where} has a record of {key!r} but neither layers[{key!r}] nor obsm[{key!r}]: impute again")
    kind, state = record.input.kind, record.input.state
    counted = kind == "counts" and state == "counts"
    depth = None
    if counted and columns is None and record.genes is not None and record.scale in ("normalized", "log1p"):
        raise InputError(
            f"{where} holds some genes only, on scale {record.scale}, and library sizes are not known: write all "
            "genes, or impute on scale counts (--scale counts)"
        )
    if kind == "counts":
        data = data if counted else _linear(in_memory(data), state)
        depth = _row_sums(data) if counted else np.full(adata.n_obs, TARGET)
    values = Values(
        X=data,
        imputed=lambda rows: _rows(matrix, rows),
        obs_names=adata.obs_names,
        var_names=var_names,
        kind=kind,
        scale=record.scale,
        columns=columns,
        depth=depth,
    )
    return _content(
        values,
        record,
        key=key,
        obs=adata.obs,
        label=label,
        source=source,
        command=command or record.command,
        made_by=made_by,
        counted=counted,
        map=map,
        seed=seed,
    )


def of_imputation(
    data: Data,
    imputation: Imputation,
    *,
    record: Record,
    key: str,
    scale: Scale,
    labels: pd.DataFrame | None = None,
    label: str | None = None,
    source: str = "",
    command: str = "",
    genes: np.ndarray | None = None,
    keep_observed: bool | None = None,
    map: Map = "umap",
    seed: int = 0,
) -> Content:
    """The page of an imputation that was just made, its values taken from the model on request.

    Parameters
    ----------
    record : what goes to ``uns["imputome"][key]``.
    labels : columns about the cells, ``obs``; ``label`` is one of them, see `of_result`.
    genes : positions of the genes that are written; None means all.
    keep_observed : as for what is written.
    """
    names = data.var_names if genes is None else data.var_names[genes]
    values = Values(
        X=data.X if data.kind == "counts" else data.known_values(),
        imputed=lambda rows: imputation.rows(rows, genes=genes, scale=scale, keep_observed=keep_observed),
        obs_names=data.obs_names,
        var_names=names,
        kind=data.kind,
        scale=scale,
        columns=genes,
        depth=data.depth if data.kind == "counts" else None,
    )
    return _content(
        values,
        record,
        key=key,
        obs=labels,
        label=label,
        source=source,
        command=command,
        made_by="",
        counted=data.kind == "counts" and record.input.state == "counts",
        map=map,
        seed=seed,
    )


def _content(
    values: Values,
    record: Record,
    *,
    key: str,
    obs: pd.DataFrame | None,
    label: str | None,
    source: str,
    command: str,
    made_by: str,
    counted: bool,
    map: Map,
    seed: int,
) -> Content:
    words = ("cells", "genes") if values.kind == "counts" else ("samples", "features")
    if obs is not None:
        own = [f"{key}_{name}" for name in record.cell_columns]
        label = chosen_label(obs.drop(columns=own, errors="ignore"), label)
    measured = measure(values, map=map, seed=seed)
    labels = None
    if label is not None and obs is not None:
        column = obs[label].iloc[measured.cells].astype(object)
        labels = column.where(column.notna(), "(none)").astype(str).to_numpy()
    shape = (len(values.obs_names), len(values.var_names))
    return Content(
        key=key,
        kind=values.kind,
        source=source,
        command=command,
        made_by=made_by,
        counted=counted,
        facts=facts(record, shape=shape, words=words),
        parameters=parameters(record),
        versions=list(record.versions.items()),
        verdict=record.verdict,
        verdict_basis=verdict_basis(record.verdict, words=words) if record.verdict else [],
        race=record.race,
        race_basis=race_basis(record.race, words=words) if record.race else [],
        history=history(record),
        measured=measured,
        label=label or "",
        labels=labels,
        citation=citation.of_method(record.method),
        software=citation.of_imputome(),
        shape=shape,
        method=record.method,
        words=words,
    )


def chosen_label(obs: pd.DataFrame, label: str | None) -> str | None:
    """A column that cells can be coloured by: the one named, else one of a usual name, else any with a few labels.

    Raises
    ------
    InputError
        There is no such column, or it has too many different values.
    """
    if label is not None:
        if label not in obs:
            there = ", ".join(map(str, obs.columns)) or "none"
            raise InputError(f"obs has no column {label!r}; columns here: {there}")
        number = obs[label].nunique()
        if number > LABELS:
            raise InputError(
                f"obs[{label!r}] has {number} different values, too many to tell apart by colour: choose a column "
                f"with at most {LABELS}"
            )
        return label
    usual = {name.lower(): name for name in reversed([str(name) for name in obs.columns])}
    order = [usual[name] for name in (*USUAL, *FURTHER) if name in usual]
    order += [str(name) for name in obs.columns if obs[name].dtype.name in ("category", "object", "bool")]
    return next((name for name in order if 2 <= obs[name].nunique() <= LABELS), None)


def _input(adata: AnnData, layer: str | None, source: str) -> Any:
    """The matrix that was imputed."""
    if layer is None:
        if adata.X is None:
            raise InputError(f"{source} has no X, which was imputed: nothing can be compared with it")
        return adata.X
    if layer not in adata.layers:
        raise InputError(f"{source} has lost the layer {layer!r}, which was imputed: put it back, or impute again")
    return adata.layers[layer]


def _linear(X: Any, state: str) -> Any:
    """Normalised or logged values per 10,000."""
    if state != "log1p":
        return X
    if isinstance(X, np.ndarray):
        return scale_to_counts(X, np.array(TARGET), "log1p")
    return type(X)((scale_to_counts(X.data, np.array(TARGET), "log1p"), X.indices, X.indptr), shape=X.shape)


def _row_sums(X: Any) -> np.ndarray:
    """(n,) float64, in blocks of rows."""
    n = X.shape[0]
    step = max(1, 2**22 // max(1, X.shape[1]))
    parts = [np.asarray(X[start : start + step].sum(axis=1, dtype=np.float64)) for start in range(0, n, step)]
    return np.concatenate([part.ravel() for part in parts])


def _rows(matrix: Any, rows: np.ndarray) -> np.ndarray:
    """Some rows, ascending, of a matrix in memory or in a file; of a file each chunk is unpacked once."""
    chunks = getattr(matrix, "chunks", None)
    if not chunks or isinstance(matrix, np.ndarray):
        block = matrix[rows]
        return block.toarray() if hasattr(block, "toarray") else np.asarray(block)
    parts = []
    for part in np.split(rows, np.flatnonzero(np.diff(rows // chunks[0])) + 1):
        parts.append(np.asarray(matrix[int(part[0]) : int(part[-1]) + 1])[part - part[0]])
    return np.concatenate(parts)
