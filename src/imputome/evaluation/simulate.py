"""Counts with known truth: a low-rank model of 10x data, and the curves by which counts are compared with real ones.

Letters: ``n`` cells (rows), ``G`` genes (columns), ``T`` cell types. `simulate_scdesign` holds the simulator that is
fitted to a data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import clean_csr, in_memory
from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp


@dataclass(frozen=True)
class Simulation:
    """Simulated counts and everything they were drawn from.

    Attributes
    ----------
    X : (n, G) ``csr_array`` of integer counts, float32.
    rate : (n, G) expected counts before the noise of single entries: before the gamma draw of `simulate_counts`,
        before dropouts in scDesign's.
    realised : (n, G) means of the last draw (Poisson, or multinomial): the best that any method can know, and the
        oracle under thinning. Extra dropouts of `simulate_counts` are not in it; dropouts of scDesign are.
    library : (n,) size factor of each cell, in molecules.
    cell_type, batch : (n,) integers from 0.
    fold_change : (T, G) of the rate in a type over the baseline of the gene; 1 for genes that do not differ.
    dropout : (n, G) boolean, True where an entry was set to zero; None without dropouts.
    obs_names, var_names : names of cells and genes.
    """

    X: sp.csr_array
    rate: np.ndarray
    realised: np.ndarray
    library: np.ndarray
    cell_type: np.ndarray
    batch: np.ndarray
    fold_change: np.ndarray
    dropout: np.ndarray | None
    obs_names: pd.Index
    var_names: pd.Index

    @property
    def de(self) -> np.ndarray:
        """(T, G) boolean, True where the rate of the gene in the type is not its baseline."""
        return self.fold_change != 1

    def de_between(self, one: int, other: int) -> np.ndarray:
        """(G,) boolean, True for genes whose fold changes differ between two types."""
        return self.fold_change[one] != self.fold_change[other]


def simulate_counts(
    *,
    n: int = 2000,
    G: int = 2000,
    n_types: int = 5,
    rank: int = 10,
    batches: int = 1,
    depth: float = 1000.0,
    depth_spread: float = 0.4,
    gene_spread: float = 1.6,
    de_share: float = 0.1,
    fold_change: tuple[float, float] = (1.5, 5.0),
    factor_strength: float = 0.4,
    batch_strength: float = 0.3,
    overdispersion: tuple[float, float] = (0.05, 1.2),
    dropout: float = 0.0,
    rng: np.random.Generator,
) -> Simulation:
    """Negative-binomial counts whose log rates are of low rank, with cell types, batches and library sizes.

    ``rate_ig = library_i p_g f_{type(i), g} exp(b_{batch(i), g}) exp(u_i . v_g - |v_g|^2 / 2)``, then
    ``realised_ig = rate_ig Gamma(1 / phi_g, phi_g)`` and ``x_ig ~ Poisson(realised_ig)``, which is negative-binomial of
    variance ``rate + phi rate^2``. The factors have mean one, so f is exactly the fold change of expected counts. The
    rows are not normalised again, so a library is met on average over cells, not by each.

    Parameters
    ----------
    n, G, n_types, batches : cells, genes, types and batches; types and batches are as equal in size as can be and
        independent of each other.
    rank : dimension of the variation within types, u_i ~ N(0, I).
    depth, depth_spread : median library in molecules, and standard deviation of its natural log.
    gene_spread : standard deviation of ln p_g.
    de_share, fold_change : share of genes that differ in each type, half up and half down (by the inverse), and the
        range of the uniform fold change.
    factor_strength : root mean square of |v_g|: the standard deviation of log rates within a type.
    batch_strength : standard deviation of b; the first batch has none.
    overdispersion : (a, c) of the trend ``phi_g = a + c / (1 + mean_g)``, mean_g the expected count of the gene at the
        median library. The defaults follow 10x PBMC data.
    dropout : probability that an entry is set to zero after all, whatever its rate.

    Raises
    ------
    InputError
        A size under one, a negative spread, a probability outside [0, 1), a fold change under one.
    """
    import pandas as pd
    import scipy.sparse as sp

    sizes = {"n": n, "G": G, "n_types": n_types, "batches": batches}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} is {size}: it must be at least 1")
    spreads = {
        "rank": rank,
        "depth_spread": depth_spread,
        "gene_spread": gene_spread,
        "factor_strength": factor_strength,
        "batch_strength": batch_strength,
    }
    for name, spread in spreads.items():
        if spread < 0:
            raise InputError(f"{name} is {spread}: it cannot be negative")
    if not 0 <= dropout < 1 or not 0 <= de_share <= 1:
        raise InputError(f"dropout ({dropout}) and de_share ({de_share}) are shares: give numbers from 0 to below 1")
    if not 1 <= fold_change[0] <= fold_change[1]:
        raise InputError(f"fold_change is {fold_change}: give (low, high) with 1 <= low <= high; half act downwards")
    if depth <= 0 or min(overdispersion) < 0 or overdispersion[0] == 0:
        raise InputError("depth and the first number of overdispersion must be positive")

    library = depth * np.exp(depth_spread * rng.standard_normal(n))
    share = np.exp(gene_spread * rng.standard_normal(G))
    share /= share.sum()
    cell_type = rng.permutation(np.arange(n) % n_types)
    batch = rng.permutation(np.arange(n) % batches)
    change = np.stack([draw_fold_changes(G, de_share, fold_change, rng) for _ in range(n_types)])
    effect = batch_strength * rng.standard_normal((batches, G))
    effect[0] = 0
    loadings = factor_strength / np.sqrt(max(rank, 1)) * rng.standard_normal((G, rank))
    log_rate = rng.standard_normal((n, rank)) @ loadings.T - (loadings**2).sum(axis=1) / 2
    log_rate += effect[batch] + np.log(change)[cell_type]
    rate = np.exp(log_rate) * library[:, None] * share
    phi = overdispersion[0] + overdispersion[1] / (1 + depth * share)
    realised = rate * rng.gamma(1 / phi, phi, size=(n, G))
    counts = rng.poisson(realised)
    lost = None
    if dropout > 0:
        lost = rng.random((n, G)) < dropout
        counts[lost] = 0
        lost &= realised > 0
    return Simulation(
        X=sp.csr_array(counts.astype(np.float32)),
        rate=rate,
        realised=realised,
        library=library,
        cell_type=cell_type,
        batch=batch,
        fold_change=change,
        dropout=lost,
        obs_names=pd.Index([f"cell{i}" for i in range(n)]),
        var_names=pd.Index([f"gene{j}" for j in range(G)]),
    )


def draw_fold_changes(G: int, share: float, bounds: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """(G,) fold changes: uniform within ``bounds`` for half of the differing genes, one over that for the others."""
    change = np.ones(G)
    half = round(share * G / 2)
    chosen = rng.choice(G, size=min(2 * half, G), replace=False)
    change[chosen] = rng.uniform(*bounds, size=len(chosen))
    change[chosen[half:]] **= -1
    return change


def mean_variance_zero_curves(X: Any, *, edges: np.ndarray | None = None, bins: int = 20) -> pd.DataFrame:
    """Variance and share of zeros of genes as functions of their mean: what simulated counts must have of real ones.

    Parameters
    ----------
    X : (n, G) counts, dense or sparse; genes without counts are left out.
    edges : increasing limits of the bins of mean counts; None takes ``bins`` of equal width in the log over the range
        of X. Give the same edges to compare two matrices.

    Returns
    -------
    DataFrame with one row a bin: ``low``, ``high`` (limits; the lower one belongs to the bin), ``genes`` (how many),
    and over these genes the medians ``mean``, ``variance`` (divisor n) and ``zero_fraction``; NaN in an empty bin.
    """
    import pandas as pd

    counts = clean_csr(in_memory(X))
    n, G = counts.shape
    weights = counts.data.astype(np.float64)
    mean = np.bincount(counts.indices, weights=weights, minlength=G) / n
    square = np.bincount(counts.indices, weights=weights**2, minlength=G) / n
    zero = 1 - np.bincount(counts.indices, minlength=G) / n
    used = mean > 0
    if not used.any():
        raise InputError("every count is zero: there are no curves to draw")
    genes = pd.DataFrame({"mean": mean, "variance": square - mean**2, "zero_fraction": zero})[used]
    if edges is None:
        low, high = genes["mean"].min(), genes["mean"].max()
        edges = np.geomspace(low, high * (1 + 1e-9) if high > low else 2 * high, bins + 1)
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise InputError("edges must be at least two increasing numbers")
    place = np.searchsorted(edges, genes["mean"], side="right") - 1
    every = pd.RangeIndex(len(edges) - 1)
    grouped = genes.groupby(place)
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:]}, index=every)
    table["genes"] = grouped.size().reindex(every, fill_value=0)
    return table.join(grouped.median().reindex(every))
