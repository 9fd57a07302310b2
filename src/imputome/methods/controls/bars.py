"""Controls that are no methods, because nobody would impute with them: bars for the tables of studies.

Letters: ``n`` cells, ``G`` genes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation
from imputome.core.scales import TARGET
from imputome.methods.factors import LowRank


def all_zeros(data: Data) -> Imputation:
    """Nothing is expressed."""
    n, G = data.shape
    zeros = LowRank(np.zeros((n, 0), np.float32), np.zeros((G, 0), np.float32))
    return Imputation(zeros, data, scale="counts", keeps_observed=False)


def nonzero_mean(data: Data) -> Imputation:
    """Each gene's mean over its nonzeros on scale log1p, for every cell.

    The least squares at the nonzeros that an autoencoder can reach without a look at the cell: what it gives once it
    has collapsed. It is the control for scores over hidden nonzeros on that scale; a gene mean that counts zeros loses
    to it there whatever it knows.
    """
    X, G = data.X, data.shape[1]
    per_cell = data.depth / TARGET  # (n,)
    values = np.log1p(X.data / np.repeat(per_cell, np.diff(X.indptr)))
    number = np.bincount(X.indices, minlength=G)
    mean = np.bincount(X.indices, values, minlength=G) / np.maximum(number, 1)  # (G,)
    model = LowRank(per_cell[:, None].astype(np.float32), np.expm1(mean)[:, None].astype(np.float32))
    return Imputation(model, data, scale="counts", keeps_observed=False)


BARS: dict[str, Callable[[Data], Imputation]] = {"all_zeros": all_zeros, "nonzero_mean": nonzero_mean}
