"""The genes of new cells and those of a fitted model, matched by name.

A method is always given exactly its own genes; what the input and the model do not share is handled here. Letters:
``n`` new cells, ``G`` genes of the input, ``M`` genes of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation, Output
from imputome.core.imputer import Imputer
from imputome.core.unknown_genes import unseen_genes, unseen_message, without_genes
from imputome.errors import InputError, Message, ModelFormatError, some
from imputome.inspection.features import features_of
from imputome.inspection.source import layer_in_memory
from imputome.inspection.state import InputReport
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


def with_others(part: Imputation, adata: AnnData, report: InputReport) -> Imputation:
    """The imputation of the features of a report as one of all features of ``adata``."""
    features = features_of(adata.var, report.feature_type) if report.left_out else None
    if features is None:
        return part
    rest = adata[:, ~features.used]
    others = layer_in_memory(rest, report.layer)
    return WithOthers(part, used=features.used, others=others, var_names=adata.var_names.astype(str))


class WithOthers(Imputation):
    """An imputation of some features of an input; the others keep the values of the input, NaN included.

    ``part`` is the imputation of the features where ``used`` (bool, (G,)) is True, ``others`` the matrix of the other
    features, ``var_names`` the names of all. The gene column ``imputed`` tells them apart.
    """

    def __init__(self, part: Imputation, *, used: np.ndarray, others: Any, var_names: pd.Index) -> None:
        vars(self).update(vars(part))
        self.part, self._others, self._all_names = part, others, var_names
        self._places = np.where(used, np.cumsum(used) - 1, -1)  # among the features of `part`
        self._other_places = np.cumsum(~used) - 1
        self.gene_columns = {"imputed": used}
        for name, values in part.gene_columns.items():
            self.gene_columns[name] = np.full(len(used), np.nan)
            self.gene_columns[name][used] = values

    @property
    def var_names(self) -> pd.Index:
        return self._all_names

    @property
    def shape(self) -> tuple[int, int]:
        return self.part.shape[0], len(self._all_names)

    def fitted(self, genes: np.ndarray | None = None) -> tuple[Imputation, np.ndarray | None]:
        return self.part, None if genes is None else self._places[genes][self._places[genes] >= 0]

    def rows(self, rows: Any, *, genes: Any = None, output: Output = "value", **options: Any) -> np.ndarray:
        i, j = self._positions(rows, self.obs_names, "cell"), self._columns(genes)
        return self._joined(i, j, lambda places: self.part.rows(i, genes=places, output=output, **options), output)

    def at(self, i: Any, j: Any, *, output: Output = "value", **options: Any) -> np.ndarray:
        i, j = self._positions(i, self.obs_names, "cell"), self._columns(j)
        used = self._places[j] >= 0
        values = np.empty(len(j))
        values[used] = self.part.at(i[used], self._places[j[used]], output=output, **options)
        others = self._others[i[~used]][np.arange((~used).sum()), self._other_places[j[~used]]]
        values[~used] = _as_measured(np.asarray(others, dtype=np.float64).ravel(), output)
        return values

    def draw(self, number: int, *, rows: Any = slice(None)) -> np.ndarray:
        i = self._positions(rows, self.obs_names, "cell")
        return self._joined(i, self._columns(None), lambda _: self.part.draw(number, rows=i), "value")

    def missing(self, rows: Any, *, genes: Any = None) -> np.ndarray:
        i, j = self._positions(rows, self.obs_names, "cell"), self._columns(genes)
        values = np.zeros((len(i), len(j)), dtype=bool)
        used = self._places[j] >= 0
        values[:, used] = self.part.missing(i, genes=self._places[j[used]])
        return values

    def _columns(self, genes: Any) -> np.ndarray:
        return np.arange(self.shape[1]) if genes is None else self._positions(genes, self.var_names, "gene")

    def _joined(self, i: np.ndarray, j: np.ndarray, part: Callable[[Any], np.ndarray], output: Output) -> np.ndarray:
        """Values of the rows ``i`` and features ``j``; ``part`` gives those of positions in the imputed part."""
        used = self._places[j] >= 0
        known = part(self._places[j[used]])
        others = self._others[i][:, self._other_places[j[~used]]]
        others = _as_measured(others if isinstance(others, np.ndarray) else others.toarray(), output)
        values = np.empty((len(i), len(j)), np.result_type(known, others))
        values[:, used], values[:, ~used] = known, others
        return values


def _as_measured(values: np.ndarray, output: Output) -> np.ndarray:
    """An output of values that were measured: they have no variance and are no dropouts."""
    return np.where(np.isnan(values), values, 0) if output in ("variance", "dropout_probability") else values
