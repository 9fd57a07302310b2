"""The genes of new cells and those of a fitted model, matched by name.

A method is always given exactly its own genes; what the input and the model do not share is handled here. Letters:
``n`` new cells, ``G`` genes of the input, ``M`` genes of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation, Model, Output
from imputome.core.imputer import Imputer
from imputome.core.scales import counts_to_scale
from imputome.errors import InputError, Message, ModelFormatError
from imputome.inspection.summary_rows import summary_rows
from imputome.result.adapt import gene_names

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MIN_SHARE = 0.5  # of the model's genes that the input must have
MIN_GAIN = 0.05  # share of the model's genes that another spelling must find in addition, to be advised


@dataclass(frozen=True)
class Matched:
    """Where the genes of an input are in a model."""

    places: np.ndarray  # (G,) position of each gene among the model's M; -1 for a gene that the model does not know
    missing: pd.Index  # genes of the model that the input lacks
    exact: bool  # both have the same genes in the same order
    fallback: str = ""  # what missing values of genes unknown to the model become; empty for counts
    difference: str | None = None  # the one of `SPELLINGS` by which many names of both sides differ

    @property
    def messages(self) -> list[Message]:
        """What the user should know."""
        messages = []
        if len(self.missing):
            text = f"{len(self.missing):,} genes of the model are not in the input ({some(self.missing)}): they are "
            text += "treated as not seen in any cell"
            options: dict[str, Any] = {}
            if self.difference is not None:
                text += f"; many names differ only by {SPELLINGS[self.difference]}: pass {{match_genes}}"
                options = {"match_genes": self.difference}
            messages.append(Message(text, code="genes-missing", **options))
        unknown = int((self.places < 0).sum())
        if unknown:
            fallback = f", and their missing values become {self.fallback}" if self.fallback else ""
            text = f"{unknown:,} genes of the input are unknown to the model: they stay as they are{fallback}"
            messages.append(Message(text, code="genes-unknown"))
        return messages


def match_genes(
    adata: AnnData,
    estimator: Imputer,
    *,
    column: str | None = None,
    left_out: np.ndarray | None = None,
    how: str | None = None,
) -> Matched:
    """Find the genes of ``adata`` (``var_names``, or a column of ``var``) in a fitted model, by name.

    Without those that are ``left_out`` (a mask). ``how``, one of `SPELLINGS`, says what may differ in the names.
    """
    if how is not None and how not in SPELLINGS:
        text = f"{{match_genes}} is not one of {', '.join(SPELLINGS)}"
        raise InputError(text, code="match-genes", match_genes=how)
    names = gene_names(adata, column)
    names = names if left_out is None else names[~left_out]
    model_names = estimator.feature_names_
    if how is not None:
        names, model_names = _spelled(names, how), _spelled(model_names, how)
    if names.equals(model_names):
        return Matched(np.arange(len(names)), model_names[:0], exact=True)
    if not model_names.is_unique:
        twice = model_names[model_names.duplicated()][0]
        text = f"the model has several genes called {twice!r}: it takes only the same genes in the same order"
        text += "" if how is None else ", or {match_genes} left out"
        raise ModelFormatError(text, code="model-genes-not-unique", **({} if how is None else {"match_genes": how}))
    places = model_names.get_indexer(names)
    present = np.zeros(len(model_names), dtype=bool)
    present[places[places >= 0]] = True
    if present.mean() < MIN_SHARE:
        raise _too_few_genes(adata, model_names, names, int(present.sum()), column, _difference(names, model_names))
    twice = names[(places >= 0) & names.duplicated()].unique()
    if len(twice):
        text = f"{len(twice):,} genes of the model are in the input more than once ({some(twice)}): keep one of each"
        raise InputError(text, code="genes-not-unique")
    fallback = "the mean of the feature" if estimator.kind_ == "real" else ""
    difference = _difference(names, model_names)
    return Matched(places, estimator.feature_names_[~present], False, fallback, difference)


def _too_few_genes(
    adata: AnnData, model_names: pd.Index, names: pd.Index, present: int, column: str | None, difference: str | None
) -> InputError:
    """The error for an input with fewer than half of the model's genes; it says where these genes seem to be."""
    text = (
        f"only {present:,} of the model's {len(model_names):,} genes are in the input (the input has {some(names)}; "
        f"the model {some(model_names)})"
    )
    code = "too-few-genes"
    if column is not None and model_names.isin(adata.var_names).mean() >= MIN_SHARE:
        return InputError(f"{text}: var_names has them, so leave {{gene_column}} out", code=code, gene_column=...)
    for name in adata.var.columns:
        values = adata.var[name]
        if name != column and values.dtype.kind == "O" and model_names.isin(values.astype(str)).mean() >= MIN_SHARE:
            return InputError(f"{text}: var[{name!r}] has them, pass {{gene_column}}", code=code, gene_column=str(name))
    if model_names.isin(adata.obs_names).mean() >= MIN_SHARE:
        text += ": obs_names has them, so the input is genes x cells: transpose it (for a table change {genes_in})"
        return InputError(text, code=code, genes_in=...)
    if difference is not None:
        text += f": the names differ by {SPELLINGS[difference]}, pass {{match_genes}}"
        return InputError(text, code=code, match_genes=difference)
    kinds = [_kind_of_names(each) for each in (names, model_names)]
    if kinds[0] != kinds[1]:
        text += f": the input has {kinds[0]} and the model {kinds[1]}, so convert the names of the input, or pass the "
        return InputError(f"{text}column of var that has the others as {{gene_column}}", code=code, gene_column=...)
    return InputError(f"{text}: is it the same organism and the same kind of gene names?", code=code)


# -- names that differ by a known pattern ------------------------------------------------------------------------------
SPELLINGS = {  # what `match_genes` can be, and what it does not look at
    "version": "the version after the point (ENSG00000141510.18)",
    "case": "upper and lower case (as symbols of human and mouse do: is it the same organism?)",
    "r-names": "the signs that R writes into names ('.' for '-', X before a digit)",
}
_ENSEMBL = re.compile(r"ENS[A-Z]*[GT]\d{6,}(\.\d+)?")


def _spelled(names: pd.Index, how: str) -> pd.Index:
    """The names without what ``how`` does not look at."""
    import pandas as pd

    def plain(name: str) -> str:
        if how == "version":
            return re.sub(r"^(ENS[A-Z]*\d{6,}|[NX][MR]_\d+)\.\d+", r"\1", name)
        if how == "case":
            return name.upper()
        dotted = re.sub(r"[^A-Za-z0-9._]", ".", name)
        return f"X{dotted}" if re.match(r"\.?\d|_", dotted) else dotted

    return pd.Index([plain(str(name)) for name in names])


def _difference(names: pd.Index, model_names: pd.Index) -> str | None:
    """The one of `SPELLINGS` with which clearly more of the model's genes are found, if there is one."""
    found = model_names.isin(names).mean()
    shares = {how: _spelled(model_names, how).isin(_spelled(names, how)).mean() for how in SPELLINGS}
    best = max(shares, key=lambda how: shares[how])
    return best if shares[best] >= max(MIN_SHARE, found + MIN_GAIN) else None


def _kind_of_names(names: pd.Index) -> str:
    """What kind of names most of these are."""
    for pattern, kind in ((_ENSEMBL, "Ensembl identifiers"), (re.compile(r"\d+"), "numbers")):
        if sum(pattern.fullmatch(str(name)) is not None for name in names) > len(names) / 2:
            return kind
    return "symbols or other names"


def some(names: Iterable[str], number: int = 5) -> str:
    """The first of some names, for a message."""
    names = list(names)
    return ", ".join(names[:number]) + (", ..." if len(names) > number else "")


def model_data(inputs: Data, estimator: Imputer, matched: Matched) -> Data:
    """The same cells with the model's M genes in its order, as `apply_model` describes."""
    if matched.exact:
        return replace(inputs, var_names=estimator.feature_names_)
    n, M = inputs.shape[0], len(estimator.feature_names_)
    columns = np.flatnonzero(matched.places >= 0)
    columns = columns[np.argsort(matched.places[columns])]
    present = matched.places[columns]
    library = inputs.library_size
    X: Any
    if inputs.kind == "real":
        X = np.full((n, M), np.nan, inputs.X.dtype)
        X[:, present] = inputs.X[:, columns]
    else:
        import scipy.sparse as sp

        part = sp.csr_array(inputs.X[:, columns])
        part.sort_indices()
        X = sp.csr_array((part.data, present[part.indices], part.indptr), shape=(n, M))
        totals = estimator.training_totals_
        if library is None and totals is not None and 0 < totals[present].sum() < totals.sum():
            share = totals[present].sum() / totals.sum()
            library = np.asarray(X @ np.ones(M)) / share
    return replace(inputs, X=X, var_names=estimator.feature_names_, library_size=library)


# -- genes that are left out of the fit --------------------------------------------------------------------------------
def left_out_genes(names: Iterable[str], *, keep_summary_rows: bool) -> tuple[np.ndarray | None, list[Message]]:
    """The genes that no method is given but that stay in the result as they are: a mask, None for none; and messages.

    These are the summary rows of read counters (`imputome.inspection.summary_rows`).
    """
    names = [str(name) for name in names]
    mask = summary_rows(names)
    if keep_summary_rows or not mask.any() or mask.all():
        return None, []
    rows = [name for name, is_summary in zip(names, mask, strict=True) if is_summary]
    text = (
        f"{len(rows)} names are those of summary rows, not of genes ({some(rows)}): they are left out of the fit and "
        "of the library size, and stay as they are in the output; pass {keep_summary_rows} to fit them"
    )
    return mask, [Message(text, code="summary-rows", keep_summary_rows=True)]


def without_left_out(whole: Data, left_out: np.ndarray | None) -> tuple[Data, Data]:
    """The data without the genes that are left out, and the whole data with the same library sizes."""
    if left_out is None:
        return whole, whole
    data = whole.subset(columns=~left_out)
    return data, whole if whole.kind == "real" else replace(whole, library_size=data.depth)


def with_left_out(result: Imputation, whole: Data, left_out: np.ndarray | None) -> Imputation:
    """A result for all genes: those that were left out keep their values; real missing ones get the feature's mean."""
    if left_out is None:
        return result
    places = np.where(left_out, -1, np.cumsum(~left_out) - 1)
    columns = {}
    for name, values in result.gene_columns.items():
        columns[name] = np.full(len(places), np.nan if values.dtype.kind == "f" else 0, values.dtype)
        columns[name][~left_out] = values
    return Imputation(
        OwnGenes(result.model, whole, result.data, places),
        replace(whole, bounds=result.data.bounds),
        scale=result.scale,
        keeps_observed=result.keeps_observed,
        status=result.status,
        history=result.history.to_dict("list"),
        latent=result.latent,
        gene_columns=columns,
        cell_columns=result.cell_columns,
    )


class OwnGenes:
    """A fitted model's values for the genes of the input (a `Model`); genes that it does not know keep their values."""

    def __init__(self, inner: Model, inputs: Data, data: Data, places: np.ndarray) -> None:
        self.inner, self.inputs, self.data, self.places = inner, inputs, data, places
        if hasattr(inner, "draw"):
            self.draw = self._draw

    @property
    def outputs(self) -> frozenset[Output]:
        return self.inner.outputs

    def _draw(self, rows: np.ndarray, number: int) -> np.ndarray:
        """A draw from the model for the genes that it knows; the other genes have one value only."""
        known_values = self.inner.draw(rows, number)  # type: ignore[attr-defined]
        values = np.empty((len(rows), len(self.places)), known_values.dtype)
        unknown = np.flatnonzero(self.places < 0)
        values[:, self.places >= 0] = known_values[:, self.places[self.places >= 0]]
        values[:, unknown] = self._unknown_values(self.inputs.block(rows, unknown), rows[:, None], unknown, "value")
        return values

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        genes = np.arange(len(self.places)) if genes is None else genes
        places = self.places[genes]
        known = places >= 0
        unknown_values = self._unknown_values(
            self.inputs.block(rows, genes[~known]), rows[:, None], genes[~known], output
        )
        if not known.any():
            return unknown_values
        known_values = self._scaled(self.inner.rows(rows, places[known], output), rows[:, None], output)
        if known.all():
            return known_values
        values = np.empty((len(rows), len(genes)), known_values.dtype)
        values[:, known] = known_values
        values[:, ~known] = unknown_values
        return values

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        places = self.places[j]
        known = places >= 0
        values = np.empty(len(i))
        values[known] = self._scaled(self.inner.at(i[known], places[known], output), i[known], output)
        values[~known] = self._unknown_values(self.inputs.entries(i[~known], j[~known]), i[~known], j[~known], output)
        return values

    def _unknown_values(self, values: np.ndarray, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        """Values of genes that the model does not know; their observed values have no uncertainty."""
        if self.inputs.kind == "real":
            filled = self._variances if output == "variance" else self._means
            return np.where(np.isnan(values), filled[j], 0 if output == "variance" else values)
        if output in ("variance", "dropout_probability"):
            return np.zeros_like(values)
        return counts_to_scale(values, self.inputs.depth[i], "normalized") if output == "normalized" else values

    def _scaled(self, values: np.ndarray, i: np.ndarray, output: Output) -> np.ndarray:
        """Rescale "normalized": the model's is per 10,000 molecules of its genes, the result's of all genes."""
        return values * self._share[i].astype(values.dtype) if output == "normalized" else values

    @cached_property
    def _share(self) -> np.ndarray:
        depth = self.inputs.depth
        return np.divide(self.data.depth, depth, out=np.zeros(len(depth)), where=depth > 0)

    @cached_property
    def _means(self) -> np.ndarray:
        """(G,) mean of each feature, or of all observed values where there is none."""
        X = self.inputs.X
        known = ~np.isnan(X)
        number = known.sum(axis=0)
        means = np.full(len(number), float(np.nanmean(X, dtype=np.float64)))
        return np.divide(np.nansum(X, axis=0, dtype=np.float64), number, out=means, where=number > 0)

    @cached_property
    def _variances(self) -> np.ndarray:
        """(G,) mean squared deviation of the observed values of each feature from `_means`."""
        gaps = self.inputs.X - self._means
        number = np.maximum((~np.isnan(gaps)).sum(axis=0), 1)
        return np.asarray(np.nansum(np.square(gaps), axis=0, dtype=np.float64) / number)
