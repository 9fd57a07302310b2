"""The genes of new cells and those of a fitted model, matched by name.

A method is always given exactly its own genes; what the input and the model do not share is handled here. Letters:
``n`` new cells, ``G`` genes of the input, ``M`` genes of the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation, Output
from imputome.core.imputer import Imputer
from imputome.core.unknown_genes import OwnGenes, unseen_genes, unseen_message, without_genes
from imputome.errors import InputError, Message, ModelFormatError, some
from imputome.inspection.source import layer_in_memory
from imputome.inspection.state import InputReport
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
            text += "treated as not seen in any cell"
            options: dict[str, Any] = {}
            if self.difference is not None:
                text += f"; many names differ only by {SPELLINGS[self.difference]}: pass {{match_genes}}"
                options = {"match_genes": self.difference}
            messages.append(Message(text, code="genes-missing", **options))
        if self.unseen_message is not None:
            messages.append(self.unseen_message)
        unknown = int((self.places < 0).sum()) - len(self.unseen)
        if unknown:
            fallback = f", and their missing values become {self.fallback}" if self.fallback else ""
            text = f"{unknown:,} genes of the input are unknown to the model: they stay as they are{fallback}"
            messages.append(Message(text, code="genes-unknown"))
        return messages


def match_genes(adata: AnnData, estimator: Imputer, *, column: str | None = None, how: str | None = None) -> Matched:
    """Find the genes of ``adata`` (``var_names``, or a column of ``var``) in a fitted model, by name.

    ``how``, one of `SPELLINGS`, says what may differ in the names.
    """
    if how is not None and how not in SPELLINGS:
        text = f"{{match_genes}} is not one of {', '.join(SPELLINGS)}"
        raise InputError(text, code="match-genes", match_genes=how)
    names = gene_names(adata, column)
    model_names = estimator.feature_names_
    if how is not None:
        names, model_names = spelled_names(names, how), spelled_names(model_names, how)
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
        if name == column or adata.var[name].dtype.kind not in "Oiuf":
            continue
        others, given = gene_names(adata, name), {"gene_column": str(name)}
        if model_names.isin(others).mean() >= MIN_SHARE:
            return InputError(f"{text}: var[{name!r}] has them, pass {{gene_column}}", code=code, **given)
        if (how := _difference(others, model_names)) is not None:
            text += f": var[{name!r}] has them but for {SPELLINGS[how]}, pass {{gene_column}} and {{match_genes}}"
            return InputError(text, code=code, **given, match_genes=how)
    if model_names.isin(adata.obs_names).mean() >= MIN_SHARE:
        text += ": obs_names has them, so the input is genes x cells: transpose it (for a table change {genes_in})"
        return InputError(text, code=code, genes_in=...)
    if difference is not None:
        text += f": the names differ by {SPELLINGS[difference]}, pass {{match_genes}}"
        return InputError(text, code=code, match_genes=difference)
    kinds = [_kind_of_names(each) for each in (names, model_names)]
    if kinds[0] != kinds[1]:
        # a column of var that has them would have been found
        text += f": the input has {kinds[0]} and the model {kinds[1]}, so convert the names"
        if column is not None:
            return InputError(f"{text} in var[{column!r}]", code=code)
        text += ", or add a column with the others to var and pass {gene_column}"
        return InputError(text, code=code, gene_column=...)
    return InputError(f"{text}: is it the same organism and the same kind of gene names?", code=code)


# -- names that differ by a known pattern ------------------------------------------------------------------------------
SPELLINGS = {  # what `match_genes` can be, and what it does not look at
    "version": "the version after the point (ENSG00000141510.18)",
    "case": "upper and lower case (as symbols of human and mouse do: is it the same organism?)",
    "r-names": "the signs that R writes into names ('.' for '-', X before a digit)",
}
_ENSEMBL = re.compile(r"ENS[A-Z]*[GT]\d{6,}(\.\d+)?")


def spelled_names(names: pd.Index, how: str) -> pd.Index:
    """The names without what ``how``, one of `SPELLINGS`, does not look at."""
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
    shares = {how: spelled_names(model_names, how).isin(spelled_names(names, how)).mean() for how in SPELLINGS}
    best = max(shares, key=lambda how: shares[how])
    return best if shares[best] >= max(MIN_SHARE, found + MIN_GAIN) else None


def _kind_of_names(names: pd.Index) -> str:
    """What kind of names most of these are."""
    for pattern, kind in ((_ENSEMBL, "Ensembl identifiers"), (re.compile(r"\d+"), "numbers")):
        if sum(pattern.fullmatch(str(name)) is not None for name in names) > len(names) / 2:
            return kind
    return "symbols or other names"


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


def imputed_by_model(inputs: Data, estimator: Imputer, matched: Matched) -> Imputation:
    """The values of a fitted model for all genes of ``inputs``, by where they are in the model."""
    inner = estimator.transform(model_data(inputs, estimator, matched))
    model = inner.model if matched.exact else OwnGenes(inner.model, inputs, inner.data, matched.places)
    about = replace(inputs, bounds=estimator.bounds_, covariates=None)
    return Imputation(model, about, **estimator.how(inputs), latent=inner.latent)


def with_others(part: Imputation, adata: AnnData, report: InputReport) -> Imputation:
    """The imputation of the features of a report as one of all features of ``adata``."""
    if report.used is None:
        return part
    others = layer_in_memory(adata[:, ~report.used], report.layer)
    return WithOthers(part, used=report.used, others=others, var_names=adata.var_names.astype(str))


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
