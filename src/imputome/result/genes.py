"""The genes of new cells and those of a fitted model, matched by name.

A method is always given exactly its own genes; what the input and the model do not share is handled here. Letters:
``n`` new cells, ``G`` genes of the input, ``M`` genes of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data
from imputome.core.imputer import Imputer
from imputome.core.unknown_genes import unseen_genes, unseen_message, without_genes
from imputome.errors import InputError, Message, ModelFormatError, some
from imputome.result.adapt import gene_names

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MIN_SHARE = 0.5  # of the model's genes that the input must have


@dataclass(frozen=True)
class Matched:
    """Where the genes of an input are in a model."""

    places: np.ndarray  # (G,) position of each gene among the model's M; -1 for a gene that the model does not know
    missing: pd.Index  # genes of the model that the input lacks
    exact: bool  # both have the same genes in the same order
    fallback: str = ""  # what missing values of genes unknown to the model become; empty for counts
    # positions of the genes of the input that had no molecule in training: the model does not know them
    unseen: tuple[int, ...] = ()
    unseen_message: Message | None = None

    def without_unseen(self, inputs: Data, estimator: Imputer) -> Matched:
        """The same, genes without a molecule in training being unknown to the model if ``inputs`` has some."""
        totals = estimator.training_totals_
        known = self.places >= 0
        if totals is not None:
            totals = np.where(known, totals[self.places], 1.0)
        unseen = unseen_genes(inputs, totals)
        if not len(unseen):
            return self
        places = self.places.copy()
        places[unseen] = -1
        return replace(
            self, places=places, exact=False, unseen=tuple(unseen), unseen_message=unseen_message(inputs, unseen)
        )

    @property
    def messages(self) -> list[Message]:
        """What the user should know."""
        messages = []
        if len(self.missing):
            text = f"{len(self.missing):,} genes of the model are not in the input ({some(self.missing)}): they are "
            messages.append(Message(f"{text}treated as not seen in any cell", code="genes-missing"))
        if self.unseen_message is not None:
            messages.append(self.unseen_message)
        unknown = int((self.places < 0).sum()) - len(self.unseen)
        if unknown:
            fallback = f", and their missing values become {self.fallback}" if self.fallback else ""
            text = f"{unknown:,} genes of the input are unknown to the model: they stay as they are{fallback}"
            messages.append(Message(text, code="genes-unknown"))
        return messages


def match_genes(adata: AnnData, estimator: Imputer, *, column: str | None = None) -> Matched:
    """Find the genes of ``adata`` (``var_names``, or a column of ``var``) in a fitted model, by name."""
    names = gene_names(adata, column)
    model_names = estimator.feature_names_
    if names.equals(model_names):
        return Matched(np.arange(len(names)), model_names[:0], exact=True)
    if not model_names.is_unique:
        twice = model_names[model_names.duplicated()][0]
        text = f"the model has several genes called {twice!r}: it takes only the same genes in the same order"
        raise ModelFormatError(text, code="model-genes-not-unique")
    places = model_names.get_indexer(names)
    present = np.zeros(len(model_names), dtype=bool)
    present[places[places >= 0]] = True
    if present.mean() < MIN_SHARE:
        raise _too_few_genes(adata, model_names, names, int(present.sum()), column)
    twice = names[(places >= 0) & names.duplicated()].unique()
    if len(twice):
        text = f"{len(twice):,} genes of the model are in the input more than once ({some(twice)}): keep one of each"
        raise InputError(text, code="genes-not-unique")
    return Matched(places, model_names[~present], False, "the mean of the feature" if estimator.kind_ == "real" else "")


def _too_few_genes(
    adata: AnnData, model_names: pd.Index, names: pd.Index, present: int, column: str | None
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
    return InputError(f"{text}: is it the same organism and the same kind of gene names?", code=code)


def model_data(inputs: Data, estimator: Imputer, matched: Matched) -> Data:
    """The same cells with the model's M genes in its order, as `apply_model` describes."""
    if matched.exact:
        return replace(inputs, var_names=estimator.feature_names_)
    if matched.unseen:
        inputs = without_genes(inputs, np.asarray(matched.unseen))
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
