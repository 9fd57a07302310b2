"""How much correlation between genes a method creates where there is none.

Each gene is permuted over the cells by itself: every gene keeps its values, and all relations between genes are lost.
Correlations between genes after imputing such data are false: the method has created them.

Letters: ``n`` cells, ``G`` genes, ``k`` genes that are correlated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation
from imputome.errors import InputError

MAX_GENES = 300  # genes that are correlated: 44,850 pairs
CONSTANT_IMPUTED_SD = 1e-5  # up to this SD over the mean a gene counts as constant: float32 rounding is no variation
MIN_KNOWN_TO_CORRELATE = 10  # with fewer known values the correlations of a feature are noise
STRONG = 0.5  # from this absolute value on, a correlation would be read as co-expression


@dataclass(frozen=True)
class NullCorrelation:
    """Correlations between permuted genes, before and after imputing them."""

    genes: np.ndarray  # (k,) positions of the genes
    before: np.ndarray  # (k (k - 1) / 2,)
    after: np.ndarray  # (k (k - 1) / 2,)

    @property
    def excess(self) -> float:
        """Mean absolute correlation after imputing, minus that before."""
        return float(np.abs(self.after).mean() - np.abs(self.before).mean())

    @property
    def strong(self) -> float:
        """Share of pairs with an absolute correlation of 0.5 or more after imputing."""
        return float((np.abs(self.after) >= STRONG).mean())


def permute_genes(data: Data, rng: np.random.Generator) -> Data:
    """Data with the values of every gene permuted over the cells, independently of all other genes.

    Missing values move with the others. Library sizes, covariates and a mask of observed counts belong to the original
    cells and are left out; the library size of a cell is then the sum of its new counts.

    Cost: one pass over the nonzeros of counts and a sort of them, O(n G) for real values.
    """
    n, G = data.shape
    bare = replace(data, covariates=None, library_size=None, observed=None)
    if data.kind == "real":
        X = np.where(data.observed, data.X, np.nan) if data.observed is not None else data.X
        return replace(bare, X=rng.permuted(X, axis=0))
    import scipy.sparse as sp

    columns = sp.csc_array(data.X)
    cells = np.empty(columns.nnz, dtype=columns.indices.dtype)
    for gene in range(G):
        part = slice(columns.indptr[gene], columns.indptr[gene + 1])
        cells[part] = rng.permutation(n)[: part.stop - part.start]
    return replace(bare, X=sp.csr_array(sp.csc_array((columns.data, cells, columns.indptr), shape=(n, G))))


def null_correlation(
    fit_predict: Callable[[Data], Imputation],
    data: Data,
    *,
    rng: np.random.Generator,
    n_genes: int = MAX_GENES,
    keep_observed: bool | None = None,
) -> NullCorrelation:
    """Impute permuted data and correlate k = ``n_genes`` genes, before and after.

    ``fit_predict`` fits a method on data and imputes them. ``keep_observed`` says whether observed values are put back,
    as in the output (None: the method's default).

    Counts are compared as log1p of normalised values, real values as they are (before imputing, missing ones are set to
    the mean of the feature). For counts, the genes with counts in the most cells are correlated, because the others
    hardly correlate with anything before imputing. For real values, those with the most missing values are correlated,
    because only missing values are imputed; they need 10 known values.

    All cells of permuted counts have the same library size. Otherwise a gene with a large part of all molecules would
    push the normalised values of the others down together. This is an effect of composition, which noise hides before
    imputing; the method does not create it.

    Cost: one fit, and k columns of predictions.
    """
    n, G = data.shape
    if n < 3 or G < 2 or n_genes < 2:
        raise InputError(
            f"{n} cells x {min(G, n_genes)} genes have no correlations: pass at least 3 x 2", code="too-few-values"
        )
    permuted = permute_genes(data, rng)
    if data.kind == "counts":
        permuted = replace(permuted, library_size=np.full(n, permuted.depth.mean()))
    _, n_observed = permuted.observed_counts()
    priority = n_observed
    if data.kind == "real":
        priority = np.where(n_observed >= min(MIN_KNOWN_TO_CORRELATE, n // 2), n - n_observed, -1)
    genes = np.sort(np.argsort(-priority, kind="stable")[:n_genes])
    imputed = fit_predict(permuted)
    scale = "log1p" if data.kind == "counts" else "input"
    after = imputed.to_array(genes=genes, scale=scale, keep_observed=keep_observed)
    return NullCorrelation(genes, gene_correlations(_before(permuted, genes)), gene_correlations(after))


def gene_correlations(values: np.ndarray) -> np.ndarray:
    """Pearson correlations of all pairs of columns of an (n, k) array, in the order of ``np.triu_indices(k, 1)``.

    They are 0 for pairs with a constant column.
    """
    values = np.asarray(values, dtype=np.float64)
    mean = values.mean(axis=0)
    centred = values - mean
    norm = np.sqrt(np.square(centred).sum(axis=0))
    varies = norm > CONSTANT_IMPUTED_SD * np.maximum(np.abs(mean), np.finfo(float).tiny) * np.sqrt(len(values))
    centred *= np.divide(1.0, norm, out=np.zeros_like(norm), where=varies)
    return (centred.T @ centred)[np.triu_indices(values.shape[1], 1)]


def _before(data: Data, genes: np.ndarray) -> np.ndarray:
    """(n, k) values before imputing, on the scale on which they are compared."""
    if data.kind == "counts":
        depth = data.depth
        scale = np.divide(1e4, depth, out=np.zeros_like(depth), where=depth > 0)
        return np.log1p(data.X[:, genes].toarray() * scale[:, None])
    values = data.known_values()[:, genes].astype(np.float64)
    known = ~np.isnan(values)
    mean = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, values, mean)
