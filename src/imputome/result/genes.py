"""The genes of new cells and those of a fitted model, brought together by name.

What the two do not share is settled here, so that a method only ever sees its own genes. Letters: ``n`` new cells,
``G`` genes of the input, ``M`` genes of the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Model, Output
from imputome.core.imputer import Imputer
from imputome.core.scales import counts_to_scale
from imputome.errors import InputError, ModelFormatError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

ENOUGH = 0.5  # share of the model's genes that the input must have
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Matched:
    """Where the genes of an input stand in a model.

    Attributes
    ----------
    places : (G,) position of each gene of the input among the model's M, -1 for one that the model does not know.
    missing : genes of the model that the input lacks.
    exact : whether both have the same genes in the same order.
    filled : what missing values of genes that the model does not know become; empty for counts.
    """

    places: np.ndarray
    missing: pd.Index
    exact: bool
    filled: str = ""

    @property
    def messages(self) -> list[str]:
        """What a user should know of it."""
        texts = []
        if len(self.missing):
            texts.append(
                f"{len(self.missing):,} genes of the model are not in the input ({_some(self.missing)}): they are "
                "taken as not seen in any cell"
            )
        unknown = int((self.places < 0).sum())
        if unknown:
            filled = f", what is missing there is filled with {self.filled}" if self.filled else ""
            texts.append(f"{unknown:,} genes of the input are unknown to the model: they stay as they are{filled}")
        return texts


def match_genes(adata: AnnData, estimator: Imputer, *, column: str | None = None) -> Matched:
    """Find the genes of ``adata`` in a fitted model, by name.

    Raises
    ------
    InputError
        Under half of the model's genes are there; the message says where else they seem to be. Or a gene of the model
        stands there twice.
    """
    import pandas as pd

    if column is not None and column not in adata.var:
        there = ", ".join(map(str, adata.var.columns)) or "none"
        raise InputError(f"var has no column {column!r}; columns: {there}")
    names = pd.Index(adata.var_names if column is None else adata.var[column]).astype(str)
    known = estimator.feature_names_
    if names.equals(known):
        return Matched(np.arange(len(names)), known[:0], exact=True)
    if not known.is_unique:
        raise ModelFormatError(
            f"the model has several genes called {known[known.duplicated()][0]!r}: it takes the same genes in the same "
            "order only"
        )
    places = known.get_indexer(names)
    found = np.zeros(len(known), dtype=bool)
    found[places[places >= 0]] = True
    if found.mean() < ENOUGH:
        raise InputError(
            f"only {found.sum():,} of the model's {len(known):,} genes are in the input (it has {_some(names)}; the "
            f"model {_some(known)}): {_elsewhere(adata, known, column)}"
        )
    twice = names[(places >= 0) & names.duplicated()]
    if len(twice):
        raise InputError(
            f"{len(twice.unique()):,} genes of the model stand more than once in the input ({_some(twice.unique())}): "
            "leave one of each, or make the names unique"
        )
    filled = "the feature's mean" if estimator.kind_ == "real" else ""
    return Matched(places, known[~found], exact=False, filled=filled)


def _elsewhere(adata: AnnData, known: pd.Index, column: str | None) -> str:
    """Where the genes of the model seem to be, as advice."""
    others = {name: adata.var[name].astype(str) for name in adata.var.columns if adata.var[name].dtype.kind == "O"}
    if column is not None and known.isin(adata.var_names).mean() >= ENOUGH:
        return "var_names has them, leave the gene column out"
    for name, values in others.items():
        if name != column and known.isin(values).mean() >= ENOUGH:
            return f"var[{name!r}] has them, pass --gene-column {name} (gene_column={name!r})"
    if known.isin(adata.obs_names).mean() >= ENOUGH:
        return "obs_names has them, so the input is genes x cells: transpose it, or for a table see --genes-in"
    return "is it the same organism and the same kind of names?"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def model_data(own: Data, estimator: Imputer, matched: Matched) -> Data:
    """The same cells with the model's M genes in its order, as `apply_model` describes."""
    if matched.exact:
        return replace(own, var_names=estimator.feature_names_)
    n, M = own.shape[0], len(estimator.feature_names_)
    columns = np.flatnonzero(matched.places >= 0)
    columns = columns[np.argsort(matched.places[columns])]
    present = matched.places[columns]
    library = own.library_size
    X: Any
    if own.kind == "real":
        X = np.full((n, M), np.nan, own.X.dtype)
        X[:, present] = own.X[:, columns]
    else:
        import scipy.sparse as sp

        part = sp.csr_array(own.X[:, columns])
        part.sort_indices()
        X = sp.csr_array((part.data, present[part.indices], part.indptr), shape=(n, M))
        totals = estimator.training_totals_
        if library is None and totals is not None and 0 < totals[present].sum() < totals.sum():
            share = totals[present].sum() / totals.sum()
            library = np.asarray(X @ np.ones(M)) / share
    return replace(own, X=X, var_names=estimator.feature_names_, library_size=library)


class OwnGenes:
    """The model of the input's cells with the input's genes (a `Model`); unknown genes are given back as they came."""

    def __init__(self, inner: Model, own: Data, data: Data, places: np.ndarray) -> None:
        self.inner = inner
        self.own = own
        self.data = data
        self.places = places
        if hasattr(inner, "draw"):
            self.draw = self._draw

    @property
    def outputs(self) -> frozenset[Output]:
        return self.inner.outputs

    def _draw(self, rows: np.ndarray, number: int) -> np.ndarray:
        """A draw of the model where it knows the genes; of the others there is one value only."""
        found = self.inner.draw(rows, number)  # type: ignore[attr-defined]
        values = np.empty((len(rows), len(self.places)), found.dtype)
        unknown = np.flatnonzero(self.places < 0)
        values[:, self.places >= 0] = found[:, self.places[self.places >= 0]]
        values[:, unknown] = self._own(self.own.block(rows, unknown), rows[:, None], unknown, "value")
        return values

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        genes = np.arange(len(self.places)) if genes is None else genes
        places = self.places[genes]
        known = places >= 0
        own = self._own(self.own.block(rows, genes[~known]), rows[:, None], genes[~known], output)
        if not known.any():
            return own
        found = self._scaled(self.inner.rows(rows, places[known], output), rows[:, None], output)
        if known.all():
            return found
        values = np.empty((len(rows), len(genes)), found.dtype)
        values[:, known] = found
        values[:, ~known] = own
        return values

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        places = self.places[j]
        known = places >= 0
        values = np.empty(len(i))
        values[known] = self._scaled(self.inner.at(i[known], places[known], output), i[known], output)
        values[~known] = self._own(self.own.entries(i[~known], j[~known]), i[~known], j[~known], output)
        return values

    def _own(self, values: np.ndarray, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        """What stands for genes that nothing is known of; no spread is claimed of what was observed."""
        if self.own.kind == "real":
            filled = self._variances if output == "variance" else self._means
            return np.where(np.isnan(values), filled[j], 0 if output == "variance" else values)
        if output in ("variance", "dropout_probability"):
            return np.zeros_like(values)
        return counts_to_scale(values, self.own.depth[i], "normalized") if output == "normalized" else values

    def _scaled(self, values: np.ndarray, i: np.ndarray, output: Output) -> np.ndarray:
        """The model's "normalized" is per 10,000 molecules of its own genes, the result's of all in the input."""
        return values * self._share[i].astype(values.dtype) if output == "normalized" else values

    @cached_property
    def _share(self) -> np.ndarray:
        ours = self.own.depth
        return np.divide(self.data.depth, ours, out=np.zeros(len(ours)), where=ours > 0)

    @cached_property
    def _means(self) -> np.ndarray:
        """(G,) mean of each feature, or of all observed values where there is none."""
        X = self.own.X
        known = ~np.isnan(X)
        number = known.sum(axis=0)
        whole = float(np.nanmean(X, dtype=np.float64))
        return np.divide(
            np.nansum(X, axis=0, dtype=np.float64), number, out=np.full(len(number), whole), where=number > 0
        )

    @cached_property
    def _variances(self) -> np.ndarray:
        """(G,) mean squared deviation of the observed values of each feature from `_means`."""
        gaps = self.own.X - self._means
        number = np.maximum((~np.isnan(gaps)).sum(axis=0), 1)
        return np.asarray(np.nansum(np.square(gaps), axis=0, dtype=np.float64) / number)
