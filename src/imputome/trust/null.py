"""How much correlation between genes an imputation makes out of nothing.

Genes are permuted over the cells, each by itself: every gene keeps its values, and all that genes have to do with one
another is gone. Correlations between genes after imputing such data are the method's own work.

Letters: ``n`` cells, ``G`` genes, ``k`` genes that are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation
from imputome.errors import InputError

GENES = 300  # looked at: 44,850 pairs
CONSTANT = 1e-5  # SD over mean up to which a gene is constant: rounding in float32 is no variation
KNOWN = 10  # values of a gene under which its correlations are noise
STRONG = 0.5  # a correlation that would be taken for co-expression


@dataclass(frozen=True)
class NullCorrelation:
    """Correlations between genes of permuted data.

    Attributes
    ----------
    genes : (k,) positions.
    before, after : (k (k - 1) / 2,) of the permuted data themselves, and of these imputed.
    """

    genes: np.ndarray
    before: np.ndarray
    after: np.ndarray

    @property
    def excess(self) -> float:
        """Mean absolute correlation after imputing, less that before."""
        return float(np.abs(self.after).mean() - np.abs(self.before).mean())

    @property
    def strong(self) -> float:
        """Share of pairs with a correlation of 0.5 or more, either way, after imputing."""
        return float((np.abs(self.after) >= STRONG).mean())


def permute_genes(data: Data, rng: np.random.Generator) -> Data:
    """The values of every gene dealt anew to the cells, independently of all other genes.

    What is missing moves with the values. Library sizes, covariates and a mask of observed counts belong to cells as
    they were, and are left out; a cell's library is then the sum of what it was dealt.

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
    n_genes: int = GENES,
    keep_observed: bool | None = None,
) -> NullCorrelation:
    """Impute permuted data and correlate genes, before and after.

    Counts are compared as log1p of normalised values, real values as they are, missing ones at the gene's mean before
    imputing. The genes looked at are those with counts in the most cells: others hardly correlate with anything before.
    Every cell of permuted counts has the same library: were it what the cell was dealt, a gene with much of all
    molecules would push the others down together in normalised values. That is composition, which noise hides before
    imputing, and no work of the method. Of real values the genes looked at are those with the most missing, for only
    these are imputed, as far as 10 values are known.

    Parameters
    ----------
    fit_predict : fits a method on the data it is given and imputes them.
    n_genes : k, at most all.
    keep_observed : whether observed values are put back, as in what is written; None: the method's habit.

    Raises
    ------
    InputError
        There are fewer than two genes or three cells.

    Cost: one fit, and k columns of predictions.
    """
    n, G = data.shape
    if n < 3 or G < 2 or n_genes < 2:
        raise InputError(f"{n} cells x {min(G, n_genes)} genes have no correlations to look at: pass 3 x 2 or more")
    permuted = permute_genes(data, rng)
    if data.kind == "counts":
        permuted = replace(permuted, library_size=np.full(n, permuted.depth.mean()))
    _, cells = permuted.observed_counts()
    rank = cells
    if data.kind == "real":
        rank = np.where(cells >= min(KNOWN, n // 2), n - cells, -1)
    genes = np.sort(np.argsort(-rank, kind="stable")[:n_genes])
    imputed = fit_predict(permuted)
    scale = "log1p" if data.kind == "counts" else "input"
    after = imputed.to_array(genes=genes, scale=scale, keep_observed=keep_observed)
    return NullCorrelation(genes, gene_correlations(_before(permuted, genes)), gene_correlations(after))


def gene_correlations(values: np.ndarray) -> np.ndarray:
    """Pearson correlations of all pairs of columns of an (n, k) array, in the order of ``np.triu_indices(k, 1)``.

    Those with a constant column are 0.
    """
    values = np.asarray(values, dtype=np.float64)
    mean = values.mean(axis=0)
    centred = values - mean
    norm = np.sqrt(np.square(centred).sum(axis=0))
    varies = norm > CONSTANT * np.maximum(np.abs(mean), np.finfo(float).tiny) * np.sqrt(len(values))
    centred *= np.divide(1.0, norm, out=np.zeros_like(norm), where=varies)
    return (centred.T @ centred)[np.triu_indices(values.shape[1], 1)]


def _before(data: Data, genes: np.ndarray) -> np.ndarray:
    """(n, k) values as they are compared."""
    if data.kind == "counts":
        depth = data.depth
        scale = np.divide(1e4, depth, out=np.zeros_like(depth), where=depth > 0)
        return np.log1p(data.X[:, genes].toarray() * scale[:, None])
    values = data.known_values()[:, genes].astype(np.float64)
    known = ~np.isnan(values)
    mean = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, values, mean)
