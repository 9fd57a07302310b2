"""What the page of one result shows: gathered from its record and from a sample of its values; no drawing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation
from imputome.core.scales import Scale, holds_molecules
from imputome.errors import InputError
from imputome.report.before_after import WORDS, BeforeAfter, Map, Measured, Words, measure, stored_result, usual_labels
from imputome.result.record import Record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MAX_LABELS = 24  # that colours and shapes can tell apart


@dataclass(frozen=True)
class Content:
    """All that the page of one result shows."""

    key: str  # of the result
    record: Record
    values: BeforeAfter
    measured: Measured  # a sample of the values
    label: str  # what cells are coloured by: a column of obs, or their library size, or mean
    labels: np.ndarray | None  # of the cells of the sample; None where they are coloured by a number
    source: str  # file, or what else the input was
    command: str  # that made the result; empty if it is not known
    made_by: str  # command that made this page, if it is another one

    @property
    def words(self) -> Words:
        return WORDS[self.values.kind]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.values.obs_names), len(self.values.var_names)

    @property
    def genes(self) -> pd.DataFrame:
        """A row for each gene: what was measured on the sample, and the columns of the check, which come first."""
        measured = self.measured.genes
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
    command: str = "",
    made_by: str = "",
    map: Map = "umap",
    before: str | None = None,
) -> Content:
    """The page of a result that an AnnData, in memory or backed by a file, holds.

    Without ``key`` the only result is taken, without ``label`` a column of ``obs`` that looks like labels, if there is
    one, and without ``command`` the one in the record. ``before`` is the layer with the values before imputing, if they
    are no longer where they were.
    """
    key, record, values = stored_result(adata, key, before)
    command = command or record.command
    return _content(values, key, record, adata.obs, label, map, source=source, command=command, made_by=made_by)


def of_imputation(
    data: Data,
    imputation: Imputation,
    *,
    record: Record,
    key: str,
    scale: Scale,
    labels: pd.DataFrame,
    label: str | None = None,
    source: str = "",
    genes: np.ndarray | None = None,
    keep_observed: bool | None = None,
    map: Map = "umap",
) -> Content:
    """The page of an imputation that was just made; its values are computed by the model on request.

    ``record`` is what goes to ``uns["imputome"][key]``, ``scale`` that of the written values, ``labels`` is ``obs``,
    and ``genes`` are the positions of the genes that are written (None: all).
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
        state=_undone(state) if counts else state,
        scale=scale,
        columns=genes,
        library_size=data.depth if counts else None,
    )
    return _content(values, key, record, labels, label, map, source=source, command=record.command)


def _undone(state: str) -> str:
    """The state of the values that were read, in which a transform is undone."""
    if state.endswith("_counts"):
        return "counts"
    return state if holds_molecules(state) else "normalized"


def _content(
    values: BeforeAfter,
    key: str,
    record: Record,
    obs: pd.DataFrame,
    label: str | None,
    map: Map,
    *,
    source: str,
    command: str,
    made_by: str = "",
) -> Content:
    written = [f"{key}_{name}" for name in record.cell_columns]
    label = chosen_label(obs.drop(columns=written, errors="ignore"), label)
    measured = measure(values, map=map, seed=0)
    labels = None
    if label is not None:
        column = obs[label].iloc[measured.cells].astype(object)
        labels = column.where(column.notna(), "(none)").astype(str).to_numpy()
    label = label or ("library size before imputing" if values.counted else "mean before imputing")
    return Content(key, record, values, measured, label, labels, source, command, made_by)


def chosen_label(obs: pd.DataFrame, label: str | None) -> str | None:
    """The column that cells are coloured by: ``label``, else one with a usual name, else any with a few labels."""
    if label is None:
        names = usual_labels(obs)
        names += [str(name) for name in obs.columns if obs[name].dtype.name in ("category", "object", "bool")]
        return next((name for name in names if 2 <= obs[name].nunique() <= MAX_LABELS), None)
    if label not in obs:
        message = f"obs has no column {label!r}; columns here: {', '.join(map(str, obs.columns)) or 'none'}"
        raise InputError(message, code="no-obs-column", parameter="label")
    number = obs[label].nunique()
    if number > MAX_LABELS:
        message = f"obs[{label!r}] has {number} different values: choose a column with at most {MAX_LABELS}"
        raise InputError(message, code="label-with-many-values", parameter="label")
    return label
