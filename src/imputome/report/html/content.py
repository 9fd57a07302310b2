"""What the page of one result shows: gathered from its record and from a sample of its values; no drawing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation
from imputome.core.scales import Scale
from imputome.errors import InputError
from imputome.report.before_after import BeforeAfter, Map, Measured, measure, stored_result, usual_labels
from imputome.report.html.parts import Words
from imputome.result.record import Record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MAX_LABELS = 24  # that colours and shapes can tell apart


@dataclass(frozen=True)
class Content:
    """All that the page of one result shows.

    Attributes
    ----------
    key : str
        Key of the result.
    record : Record
        How the result was made and checked.
    kind : {"counts", "real"}
        Kind of data.
    counted : bool
        Whether the input was raw counts, so that zeros and library sizes can be shown.
    words : Words
        Names of rows and columns: cells and genes, or samples and features.
    shape : tuple of int
        Number of rows and columns of the result.
    source : str
        File, or what else the input was.
    command : str
        Command that made the result; empty if it is not known.
    made_by : str
        Command that made this page, if it is another one.
    measured : Measured
        A sample of the values before and after.
    label : str
        Column of ``obs`` that cells are coloured by; empty for their library size, or mean.
    labels : ndarray or None
        Label of each cell of the sample.
    """

    key: str
    record: Record
    kind: str
    counted: bool
    words: Words
    shape: tuple[int, int]
    source: str
    command: str
    made_by: str
    measured: Measured
    label: str
    labels: np.ndarray | None

    @property
    def genes(self) -> pd.DataFrame:
        """A row for each gene: what was measured on the sample, and the columns of the check, which come first."""
        measured = self.measured.genes
        if not self.counted:
            measured = measured.drop(columns=["zeros_before", "zeros_after", "confident", "raised"], errors="ignore")
        if self.record.verdict is None or self.record.verdict.genes.empty:
            return measured
        table = self.record.verdict.genes
        if table.index.is_unique and measured.index.is_unique:
            table = table.set_axis(table.index.astype(str)).reindex(measured.index)
        elif len(table) != len(measured):  # some genes share a name, so rows of the check cannot be assigned to them
            return measured
        return measured.assign(**{str(name): table[name].to_numpy() for name in table})


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
    """The page of a result that an AnnData holds.

    Parameters
    ----------
    adata : anndata.AnnData
        In memory or backed by a file.
    key : str, optional
        Key of the result; None takes the only one.
    label : str, optional
        Column of ``obs`` to colour cells by; None takes one that looks like labels, if there is one.
    source : str, default=""
        File that the AnnData was read from.
    command : str, optional
        Command that made the result; None takes that of the record.
    made_by : str, default=""
        Command that makes this page.
    map : {"umap", "pca"}, default="umap"
        Kind of map of the cells.
    seed : int, default=0
        Seed of the sample of cells and of the map.

    Returns
    -------
    Content

    Raises
    ------
    InputError
        No such result, its values or its input are not there any more, or no such column.
    """
    key, record, values = stored_result(adata, key)
    origin = {"source": source, "command": command or record.command, "made_by": made_by}
    return _content(values, record, key=key, obs=adata.obs, label=label, map=map, seed=seed, **origin)


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
    """The page of an imputation that was just made; its values are computed by the model on request.

    Parameters
    ----------
    data : Data
        Input of the method.
    imputation : Imputation
        Its output.
    record : Record
        What goes to ``uns["imputome"][key]``.
    key, label, source, command, map, seed
        As in `of_result`.
    scale : {"counts", "normalized", "log1p", "input"}
        Scale that the values are written on.
    labels : pandas.DataFrame, optional
        ``obs``, with the column ``label``.
    genes : ndarray of int, optional
        Positions of the genes that are written; None means all.
    keep_observed : bool, optional
        Whether observed values are written as they are.

    Returns
    -------
    Content
    """

    def read_imputed(cells: np.ndarray, columns: np.ndarray | None) -> np.ndarray:
        chosen = genes if columns is None else columns if genes is None else genes[columns]
        return imputation.rows(cells, genes=chosen, scale=scale, keep_observed=keep_observed)

    counts = data.kind == "counts"
    state = record.input.state
    values = BeforeAfter(
        matrix=data.X if counts else data.known_values(),
        read_imputed=read_imputed,
        obs_names=data.obs_names,
        var_names=data.var_names if genes is None else data.var_names[genes],
        kind=data.kind,
        state="normalized" if counts and state != "counts" else state,  # logarithms were undone when data was read
        scale=scale,
        columns=genes,
        library_size=data.depth if counts else None,
    )
    origin = {"source": source, "command": command, "made_by": ""}
    return _content(values, record, key=key, obs=labels, label=label, map=map, seed=seed, **origin)


def _content(
    values: BeforeAfter,
    record: Record,
    *,
    key: str,
    obs: pd.DataFrame | None,
    label: str | None,
    map: Map,
    seed: int,
    source: str,
    command: str,
    made_by: str,
) -> Content:
    words = Words("cells", "genes") if values.kind == "counts" else Words("samples", "features")
    if obs is not None:
        written = [f"{key}_{name}" for name in record.cell_columns]
        label = chosen_label(obs.drop(columns=written, errors="ignore"), label)
    measured = measure(values, map=map, seed=seed)
    labels = None
    if label is not None and obs is not None:
        column = obs[label].iloc[measured.cells].astype(object)
        labels = column.where(column.notna(), "(none)").astype(str).to_numpy()
    return Content(
        key=key,
        record=record,
        kind=values.kind,
        counted=values.kind == "counts" and values.state == "counts",
        words=words,
        shape=(len(values.obs_names), len(values.var_names)),
        source=source,
        command=command,
        made_by=made_by,
        measured=measured,
        label=label or "",
        labels=labels,
    )


def chosen_label(obs: pd.DataFrame, label: str | None) -> str | None:
    """The column that cells are coloured by: ``label``, else one with a usual name, else any with a few labels.

    Raises
    ------
    InputError
        There is no such column, or it has too many different values.
    """
    if label is not None:
        if label not in obs:
            columns = ", ".join(map(str, obs.columns)) or "none"
            raise InputError(
                f"obs has no column {label!r}; columns here: {columns}", code="label-unknown", parameter="label"
            )
        number = obs[label].nunique()
        if number > MAX_LABELS:
            raise InputError(
                f"obs[{label!r}] has {number} different values, more than colours can tell apart: choose a column with "
                f"at most {MAX_LABELS}",
                code="label-with-many-values",
                parameter="label",
            )
        return label
    names = usual_labels(obs)
    names += [str(name) for name in obs.columns if obs[name].dtype.name in ("category", "object", "bool")]
    return next((name for name in names if 2 <= obs[name].nunique() <= MAX_LABELS), None)
