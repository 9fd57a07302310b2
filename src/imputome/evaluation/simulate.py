"""Simulated counts with known truth, and curves that compare them with real counts.

`simulate_counts` is a low-rank model of 10x data. `fit_scdesign` fits a simulator to a data set (after scDesign, Li &
Li 2019), whose `ScDesign.simulate` draws two cell types with known differences; `simulated_groups` does both, and gives
an AnnData. `mean_variance_zero_curves` compares simulated with real counts.

Letters: ``n`` cells (rows), ``G`` genes (columns), ``T`` cell types. In scDesign's model a *level* is log10(x + 1.01),
with x the count of a cell scaled to the median library size; its smallest value, that of a zero, is `ZERO_LEVEL`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from imputome.core.arrays import clean_csr, in_memory
from imputome.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

RATE_LAYER, SHAPE_COLUMN = "true_rate", "true_shape"  # of an AnnData: what its counts were drawn from
ZERO_LEVEL = np.log10(1.01)
MAX_SHAPE = 20.0  # of the gamma: with zeros alone it would go to infinity
MIN_SD = 0.01  # of the normal, in log10: one detected cell, or equal ones, have none
EM_TOLERANCE = 1e-6  # a gene's EM stops when its log-likelihood gains less than this, relative to itself
N_LEVEL_BINS = 15  # of the mean level, from which standard deviations and dropout rates are drawn


@dataclass(frozen=True)
class Simulation:
    """Simulated counts and everything they were drawn from."""

    X: sp.csr_array  # (n, G) integer counts, float32
    # (n, G) expected counts before the noise of single entries: before the gamma draw of `simulate_counts`, before the
    # dropouts of scDesign
    rate: np.ndarray
    # (n, G) means of the last draw (Poisson, or multinomial): the best that any method can know, and the oracle under
    # thinning; without the extra dropouts of `simulate_counts`, with those of scDesign
    realised: np.ndarray
    library: np.ndarray  # (n,) size factor of each cell, in molecules
    cell_type: np.ndarray  # (n,) integers from 0
    batch: np.ndarray  # (n,) integers from 0
    fold_change: np.ndarray  # (T, G) rate in a type over the baseline of the gene; 1 for genes that do not differ
    dropout: np.ndarray | None  # (n, G) True where an entry was set to zero
    obs_names: pd.Index
    var_names: pd.Index
    shape: np.ndarray | None = None  # (G,) of the gamma draw of `simulate_counts`; scDesign has none

    def to_anndata(self) -> AnnData:
        """Counts in ``X``, the cell type in ``obs["cell_type"]``, and what the counts were drawn from.

        With the layer ``true_rate`` and ``var["true_shape"]``, `imputome.evaluate` with the scheme ``"thin"`` says
        which share of what can be recovered each method recovers. Simulations of scDesign, and those with dropouts, do
        not have them: their counts are not gamma-Poisson.

        Examples
        --------
        >>> import numpy as np
        >>> simulated = simulate_counts(n=100, G=50, rng=np.random.default_rng(0)).to_anndata()
        >>> simulated.shape, list(simulated.layers), list(simulated.var)
        ((100, 50), ['true_rate'], ['true_shape'])
        """
        import pandas as pd
        from anndata import AnnData

        types = pd.Categorical([f"type {number}" for number in self.cell_type])
        adata = AnnData(
            self.X, obs=pd.DataFrame({"cell_type": types}, index=self.obs_names), var=pd.DataFrame(index=self.var_names)
        )
        if self.shape is not None and self.dropout is None:
            adata.layers[RATE_LAYER] = self.rate.astype(np.float32)
            adata.var[SHAPE_COLUMN] = self.shape
        return adata

    @property
    def de(self) -> np.ndarray:
        """(T, G) boolean, True where the rate of the gene in the type differs from its baseline."""
        return self.fold_change != 1

    def de_between(self, first: int, second: int) -> np.ndarray:
        """(G,) boolean, True for genes whose fold changes differ between two types."""
        return self.fold_change[first] != self.fold_change[second]


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
    """Negative-binomial counts whose log rates have low rank, with cell types, batches and library sizes.

    ``rate_ig = library_i p_g f_{type(i), g} exp(b_{batch(i), g}) exp(u_i . v_g - |v_g|^2 / 2)``, then
    ``realised_ig = rate_ig Gamma(1 / phi_g, phi_g)`` and ``x_ig ~ Poisson(realised_ig)``: negative binomial with
    variance ``rate + phi rate^2``. The factors have mean one, so f is exactly the fold change of expected counts. Rows
    are not normalised again: the library size is met on average over cells, not by each cell.

    Parameters
    ----------
    n, G : int, default=2000
        Cells and genes.
    n_types, batches : int, default=5 and 1
        Cell types and batches; as equal in size as possible, and independent of each other.
    rank : int, default=10
        Dimension of the variation within types, u_i ~ N(0, I).
    depth : float, default=1000
        Median library size, in molecules.
    depth_spread : float, default=0.4
        Standard deviation of the natural log of the library size.
    gene_spread : float, default=1.6
        Standard deviation of ln p_g.
    de_share : float, default=0.1
        Share of genes that differ in each type, half up and half down (by the inverse).
    fold_change : (float, float), default=(1.5, 5)
        Range of the uniform fold change.
    factor_strength : float, default=0.4
        Root mean square of |v_g|: the standard deviation of log rates within a type.
    batch_strength : float, default=0.3
        Standard deviation of b; it is 0 for the first batch.
    overdispersion : (float, float), default=(0.05, 1.2)
        (a, c) of the trend ``phi_g = a + c / (1 + mean_g)``, mean_g the expected count of the gene at the median
        library size. The defaults follow 10x PBMC data.
    dropout : float, default=0
        Probability that an entry is set to zero afterwards, whatever its rate.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        A size below one, a negative spread, a probability outside [0, 1), or a fold change below one.

    Examples
    --------
    >>> import numpy as np
    >>> simulation = simulate_counts(n=100, G=50, n_types=2, rng=np.random.default_rng(0))
    >>> simulation.X.shape, simulation.de.sum(axis=1).tolist()  # counts; genes that differ in each type
    ((100, 50), [4, 4])
    """
    import pandas as pd
    import scipy.sparse as sp

    at_least_one = {"n": n, "G": G, "n_types": n_types, "batches": batches}
    not_negative = {
        "rank": rank,
        "depth_spread": depth_spread,
        "gene_spread": gene_spread,
        "factor_strength": factor_strength,
        "batch_strength": batch_strength,
    }
    for lowest, parameters in ((1, at_least_one), (0, not_negative)):
        for name, value in parameters.items():
            if value < lowest:
                raise InputError(f"{name}={value} must be at least {lowest}", code="parameter-value", parameter=name)
    if not 0 <= dropout < 1 or not 0 <= de_share <= 1:
        raise InputError(
            f"dropout={dropout} and de_share={de_share} must be shares from 0 to below 1",
            code="parameter-value",
            parameter="dropout" if not 0 <= dropout < 1 else "de_share",
        )
    _check_fold_change(fold_change)
    if depth <= 0 or min(overdispersion) < 0 or overdispersion[0] == 0:
        raise InputError(
            f"depth={depth} and the first number of overdispersion={overdispersion} must be positive",
            code="parameter-value",
            parameter="depth" if depth <= 0 else "overdispersion",
        )

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
        shape=1 / phi,
    )


def mean_variance_zero_curves(X: Any, *, edges: np.ndarray | None = None, bins: int = 20) -> pd.DataFrame:
    """Variance and share of zeros of genes as functions of their mean, to compare simulated with real counts.

    ``edges`` are increasing limits of the bins of mean counts; by default ``bins`` of equal width in the log over the
    range of X (n, G). Pass the same edges to compare two matrices. A row per bin: ``low``, ``high`` (limits; the lower
    one belongs to the bin), ``genes`` (how many; genes without counts are left out), and their medians of ``mean``,
    ``variance`` (divisor n) and ``zero_fraction``; NaN in an empty bin.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0, 1], [2, 1], [0, 4]])
    >>> mean_variance_zero_curves(X, edges=[0.1, 1, 10])["zero_fraction"].round(2).tolist()
    [0.67, 0.0]
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
        raise InputError("every count is zero: pass other counts", code="all-zero", parameter="X")
    genes = pd.DataFrame({"mean": mean, "variance": square - mean**2, "zero_fraction": zero})[used]
    if edges is None:
        low, high = genes["mean"].min(), genes["mean"].max()
        edges = np.geomspace(low, high * (1 + 1e-9) if high > low else 2 * high, bins + 1)
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise InputError("edges must be two or more increasing numbers", code="parameter-value", parameter="edges")
    bin_of_gene = np.searchsorted(edges, genes["mean"], side="right") - 1
    all_bins = pd.RangeIndex(len(edges) - 1)
    grouped = genes.groupby(bin_of_gene)
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:]}, index=all_bins)
    table["genes"] = grouped.size().reindex(all_bins, fill_value=0)
    return table.join(grouped.median().reindex(all_bins))


def _check_fold_change(fold_change: tuple[float, float]) -> None:
    if not 1 <= fold_change[0] <= fold_change[1]:
        raise InputError(
            f"fold_change={fold_change} must be (low, high), 1 <= low <= high: half of the genes go down",
            code="parameter-value",
            parameter="fold_change",
        )


def draw_fold_changes(G: int, share: float, bounds: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """(G,) fold changes: uniform within ``bounds`` for half of the differing genes, the inverse for the others."""
    change = np.ones(G)
    half = round(share * G / 2)
    chosen = rng.choice(G, size=min(2 * half, G), replace=False)
    change[chosen] = rng.uniform(*bounds, size=len(chosen))
    change[chosen[half:]] **= -1
    return change


@dataclass(frozen=True)
class ScDesign:
    """Parameters of every gene with a count, and of the cells, as `fit_scdesign` estimates them."""

    dropout_rate: np.ndarray  # (G,) weight of the gamma component: probability of a dropout
    shape: np.ndarray  # (G,) of the gamma
    rate: np.ndarray  # (G,) of the gamma
    mean: np.ndarray  # (G,) of the normal: level where the gene is expressed
    spread: np.ndarray  # (G,) standard deviation of the normal
    log_likelihood: np.ndarray  # (G,) of the mixture density at the end
    genes: np.ndarray  # (G,) columns of the data that have a count
    library: np.ndarray  # (n,) molecules per cell
    zero_share: np.ndarray  # (n,) share of zeros among all genes of the data
    max_level: float  # largest level of the data; no simulated level is above it
    steps: int  # EM steps until the last gene stopped
    unconverged: int  # genes that had not stopped by then

    def simulate(
        self,
        *,
        cells_per_type: int = 1000,
        de_share: float = 0.1,
        fold_change: tuple[float, float] = (1.5, 5.0),
        depth: int | None = None,
        rng: np.random.Generator,
    ) -> Simulation:
        """Two cell types of new genes like the fitted ones, sequenced together to an exact depth.

        Mean levels are drawn from a gamma with the moments of the fitted ones, standard deviations and dropout rates
        from fitted genes of a similar mean. A gene that differs has its mean level raised by log10 of the fold change
        in type 1 (up) or in type 0 (down), and its dropout rate is drawn again there; standard deviations are drawn
        again in type 1 for all genes, as in the R package. Levels are normal, dropouts fall on cells in proportion to
        their share of zeros, 10^level - 1.01 times the library size of the cell gives proportions, and one multinomial
        over the whole matrix gives counts.

        Parameters
        ----------
        cells_per_type : int, default=1000
            Cells of each of the two types.
        de_share : float, default=0.1
            Share of differing genes, half up and half down.
        fold_change : (float, float), default=(1.5, 5)
            Range of the uniform fold change.
        depth : int, optional
            Molecules in all cells together; by default the median library size times the number of cells.
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        Simulation
            With ``fold_change`` of shape (2, G), 1 in type 0 and below 1 for down genes in type 1. ``rate`` is
            expected before dropouts, ``realised`` is the mean of the multinomial.

        Raises
        ------
        InputError
            Too few genes can be raised by the largest fold change and stay below the largest mean; or a size is below
            one.

        Notes
        -----
        Differences from the R package: one multinomial over both types, where it draws one for each; and a gene goes
        down by being higher in the other type, where the package subtracts and then sets means under the smallest
        level to 0.1, which shrinks fold changes and inverts some. As published, zeros arise twice, as dropouts and in
        the multinomial: on 10x data genes of mean 1 to 4 have 0.1 to 0.2 more zeros than real ones and about 1.7 times
        their variance.
        """
        import pandas as pd
        import scipy.sparse as sp

        G, n = len(self.genes), 2 * cells_per_type
        if cells_per_type < 2 or not 0 <= de_share <= 1:
            raise InputError(
                f"cells_per_type={cells_per_type} must be at least 2, and de_share={de_share} from 0 to 1",
                code="parameter-value",
                parameter="cells_per_type" if cells_per_type < 2 else "de_share",
            )
        _check_fold_change(fold_change)
        total = round(float(np.median(self.library)) * n) if depth is None else depth
        if total < 1:
            raise InputError(f"depth={total} must be at least 1", code="parameter-value", parameter="depth")
        base = self._draw_means(rng)
        change = self._draw_changes(base, de_share, fold_change, rng)
        # both directions raise a mean, so no fold change is cut off at the smallest level
        means = base + np.log10(np.stack([np.maximum(1 / change, 1), np.maximum(change, 1)]))
        dropout_rate = self._like(means[0], self.dropout_rate, rng)
        level, lost = [], []
        for of_type in (0, 1):
            if of_type == 1:
                again = self._like(means[1], self.dropout_rate, rng)
                dropout_rate = np.where(change != 1, again, dropout_rate)
            spread = self._like(means[of_type], self.spread, rng)
            level.append(self._draw_levels(means[of_type], spread, cells_per_type, rng))
            lost.append(self._draw_dropouts(dropout_rate, cells_per_type, rng))
        library = rng.normal(self.library.mean(), self.library.std(), size=n)
        library = np.clip(library, self.library.min(), self.library.max())
        expected = (10 ** np.concatenate(level) - 1.01) * library[:, None]
        dropped = np.concatenate(lost)
        left = np.where(dropped, 0.0, expected)
        scale = total / left.sum()
        flat = left.ravel()
        cells = np.flatnonzero(flat)
        share = flat[cells] / flat[cells].sum()
        counts = np.zeros(flat.size, dtype=np.float32)
        counts[cells] = rng.multinomial(total, share)
        return Simulation(
            X=sp.csr_array(counts.reshape(n, G)),
            rate=expected * scale,
            realised=left * scale,
            library=library,
            cell_type=np.repeat([0, 1], cells_per_type),
            batch=np.zeros(n, dtype=np.int64),
            fold_change=np.stack([np.ones(G), change]),
            dropout=dropped,
            obs_names=pd.Index([f"type{t}_cell{i}" for t in (0, 1) for i in range(cells_per_type)]),
            var_names=pd.Index([f"gene{j}" for j in range(G)]),
        )

    def _draw_means(self, rng: np.random.Generator) -> np.ndarray:
        centre, variance = self.mean.mean(), self.mean.var()
        if variance == 0:
            return self.mean.copy()
        drawn = rng.gamma(centre**2 / variance, variance / centre, size=len(self.mean))
        return np.maximum(drawn, ZERO_LEVEL)

    def _draw_changes(
        self, base: np.ndarray, share: float, bounds: tuple[float, float], rng: np.random.Generator
    ) -> np.ndarray:
        G = len(base)
        # above the largest fitted mean, levels would be cut off at the largest level, and the fold change with them
        room = np.flatnonzero(base + np.log10(bounds[1]) <= max(self.mean.max(), base.max()))
        drawn = draw_fold_changes(G, share, bounds, rng)
        drawn = drawn[drawn != 1]
        if len(drawn) > len(room):
            raise InputError(
                f"{len(drawn)} genes should differ, but only {len(room)} of {G} can rise {bounds[1]:g}-fold within the "
                "fitted range: pass a smaller {de_share} or {fold_change}",
                code="too-few-genes",
                de_share=...,
                fold_change=...,
            )
        change = np.ones(G)
        change[rng.choice(room, size=len(drawn), replace=False)] = drawn
        return change

    def _like(self, means: np.ndarray, fitted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For every mean level a value of the fitted genes in the same bin, or in the nearest bin with genes."""
        inner = np.linspace(self.mean.min(), self.mean.max(), N_LEVEL_BINS)[1:-1]
        source = np.searchsorted(inner, self.mean, side="right")
        order = np.argsort(source, kind="stable")
        filled, start, size = np.unique(source[order], return_index=True, return_counts=True)
        target = np.searchsorted(inner, means, side="right")
        nearest = np.abs(target[:, None] - filled).argmin(axis=1)
        return fitted[order[start[nearest] + rng.integers(0, size[nearest])]]

    def _draw_levels(self, means: np.ndarray, spread: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """(n, G) normal levels; those not above the level of a zero become the gene's smallest level above it."""
        level = means + spread * rng.standard_normal((n, len(means)))
        above = level > ZERO_LEVEL
        smallest = np.where(above, level, np.inf).min(axis=0)
        smallest = np.where(np.isfinite(smallest), smallest, ZERO_LEVEL)
        return np.minimum(np.where(above, level, smallest), self.max_level)

    def _draw_dropouts(self, rate: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """(n, G) boolean: a binomial number of dropouts a gene, in cells by weighted draws without replacement."""
        number = rng.binomial(n, np.clip(rate, 0, 1))
        weight = np.maximum(rng.choice(self.zero_share, size=n), 1e-9)
        # the smallest of exponential waiting times are such a weighted draw (Efraimidis & Spirakis 2006)
        waiting = rng.standard_exponential((n, len(rate))) / weight[:, None]
        rank = np.empty(waiting.shape, dtype=np.int64)
        np.put_along_axis(rank, waiting.argsort(axis=0), np.arange(n)[:, None], axis=0)
        return rank < number


def fit_scdesign(X: Any, *, max_steps: int = 500) -> ScDesign:
    """Fit scDesign's mixture to every gene of a count matrix, by EM.

    Counts are scaled to the median library size and transformed to levels y = log10(x + 1.01). Each gene is
    ``w Gamma(y; a, b) + (1 - w) Normal(y; m, s^2)``, where the gamma models dropouts. All genes step at once, with
    the zeros of a gene as one weighted value. A gene stops when its log-likelihood gains less than 1e-6 of itself.

    Parameters
    ----------
    X : array-like of shape (n, G), dense or sparse
        Counts; genes without a count are left out.
    max_steps : int, default=500
        EM steps at most.

    Returns
    -------
    ScDesign

    Raises
    ------
    InputError
        Negative or missing values, or no counts at all.

    References
    ----------
    Li & Li 2019, Bioinformatics 35:i41. The gamma's shape stays below 20 as in the R package, the standard deviation of
    the normal above 0.01.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).poisson(2.0, (60, 20))
    >>> simulation = fit_scdesign(X, max_steps=20).simulate(cells_per_type=5, de_share=0, rng=np.random.default_rng(1))
    >>> simulation.X.shape
    (10, 20)
    """
    import scipy.sparse as sp

    counts = clean_csr(in_memory(X))
    if counts.nnz == 0 or np.isnan(counts.data).any() or counts.data.min() < 0:
        raise InputError(
            "X is all zero, or holds NaN or negative values: pass raw counts", code="not-counts", parameter="X"
        )
    library = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    filled = library > 0
    counts, library = counts[filled], library[filled]
    zero_share = 1 - np.diff(counts.indptr) / counts.shape[1]
    scale = np.repeat(np.median(library) / library, np.diff(counts.indptr))
    levels = sp.csr_array((np.log10(counts.data * scale + 1.01), counts.indices, counts.indptr), shape=counts.shape)
    levels = sp.csc_array(levels)
    genes = np.flatnonzero(np.diff(levels.indptr))
    mixture, steps, unconverged = fit_mixture(levels[:, genes], max_steps=max_steps)
    w, a, b, m, s, log_likelihood = mixture
    return ScDesign(w, a, b, m, s, log_likelihood, genes, library, zero_share, levels.data.max(), steps, unconverged)


def simulated_groups(
    X: Any,
    *,
    cells_per_group: int = 1000,
    de_share: float = 0.1,
    fold_change: tuple[float, float] = (1.5, 5.0),
    depth: int | None = None,
    random_state: int = 0,
    max_steps: int = 500,
) -> AnnData:
    """Counts of two groups of cells with known differential genes, like those of a data set: `fit_scdesign`, simulated.

    The defaults are those of paper 000 (section 4.10): 1,000 cells a group, 5 % of the genes up and 5 % down, fold
    changes from 1.5 to 5, and as many molecules as the median library size of the data times the cells. The paper
    passes the 2,000 variable genes of a data set with one cell type.

    Parameters
    ----------
    X : array-like of shape (n, G), dense or sparse
        Counts; genes without a count are left out.
    cells_per_group : int, default=1000
        Cells of each of the two groups.
    de_share, fold_change, depth
        As in `ScDesign.simulate`.
    random_state : int, default=0
        The same seed and data give the same counts.
    max_steps : int, default=500
        EM steps of the fit at most.

    Returns
    -------
    AnnData of shape (2 * cells_per_group, genes with a count)
        Counts in ``X``; ``obs["group"]`` ("group 1" or "group 2"); ``var["differential"]`` and ``var["fold_change"]``,
        that of group 2 over group 1. The genes are new ones: they have no names of the data.

    Raises
    ------
    InputError
        As `fit_scdesign` and `ScDesign.simulate`.

    Examples
    --------
    >>> import numpy as np
    >>> counts = np.random.default_rng(0).poisson(np.geomspace(0.5, 50, 40), (60, 40))
    >>> simulated = simulated_groups(counts, cells_per_group=20, fold_change=(1.5, 2))
    >>> simulated.shape, int(simulated.var["differential"].sum())
    ((40, 40), 4)
    """
    import pandas as pd
    from anndata import AnnData

    simulation = fit_scdesign(X, max_steps=max_steps).simulate(
        cells_per_type=cells_per_group,
        de_share=de_share,
        fold_change=fold_change,
        depth=depth,
        rng=np.random.default_rng(random_state),
    )
    group = np.array(["group 1", "group 2"])[simulation.cell_type]
    return AnnData(
        simulation.X,
        obs=pd.DataFrame({"group": pd.Categorical(group)}, index=simulation.obs_names),
        var=pd.DataFrame(
            {"differential": simulation.de_between(0, 1), "fold_change": simulation.fold_change[1]},
            index=simulation.var_names,
        ),
    )


def fit_mixture(levels: sp.csc_array, *, max_steps: int) -> tuple[np.ndarray, int, int]:
    """EM for all columns of levels (stored where above `ZERO_LEVEL`).

    Returns the mixture (6, G: w, a, b, m, s and log-likelihood), the EM steps taken, and how many genes had not
    stopped.
    """
    n, G = levels.shape
    size = np.diff(levels.indptr).astype(np.float64)
    zeros = n - size
    gene = np.repeat(np.arange(G), np.diff(levels.indptr))
    y = levels.data
    m = np.bincount(gene, weights=y, minlength=G) / size
    s = np.sqrt(np.bincount(gene, weights=(y - m[gene]) ** 2, minlength=G) / np.maximum(size - 1, 1))
    mixture = np.empty((6, G))
    mixture[:5] = np.where(zeros > 0, zeros / n, 0.01), np.full(G, 0.5), np.ones(G), m, np.maximum(s, MIN_SD)
    mixture[5] = -np.inf
    active = np.arange(G)
    log_y = np.log(y)
    for step in range(1, max_steps + 1):
        before = mixture[5, active]
        updated = _em_step(mixture[:5, active], y, log_y, gene, zeros[active])
        gained = updated[5] - before
        unfinished = ~(gained <= EM_TOLERANCE * np.abs(updated[5]))
        # the likelihood belongs to the parameters before the step: a gene that stops keeps those
        mixture[5, active] = updated[5]
        mixture[:5, active[unfinished]] = updated[:5, unfinished]
        if not unfinished.any():
            return mixture, step, 0
        kept = unfinished[gene]
        if not kept.all():
            y, log_y, gene = y[kept], log_y[kept], (np.cumsum(unfinished) - 1)[gene[kept]]
        active = active[unfinished]
    return mixture, max_steps, len(active)


def _em_step(parameters: np.ndarray, y: np.ndarray, log_y: np.ndarray, gene: np.ndarray, zeros: np.ndarray) -> Any:
    """One step for G genes: (6, G), new parameters and the log-likelihood of the old ones."""
    w, a, b, m, s = parameters
    G = len(w)
    with np.errstate(divide="ignore"):  # with a weight of exactly 0 or 1 one component is absent
        log_gamma = np.log(w) + a * np.log(b) - special.gammaln(a)
        log_normal = np.log1p(-w) - np.log(s) - 0.5 * np.log(2 * np.pi)

    def responsible(value: Any, log_value: Any, at: Any) -> tuple[np.ndarray, np.ndarray]:
        first = log_gamma[at] + (a[at] - 1) * log_value - b[at] * value
        second = log_normal[at] - 0.5 * ((value - m[at]) / s[at]) ** 2
        both = np.logaddexp(first, second)
        return np.exp(first - both), both

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(gene, weights=values, minlength=G)

    part, density = responsible(y, log_y, gene)
    zero_part, zero_density = responsible(ZERO_LEVEL, np.log(ZERO_LEVEL), slice(None))
    log_likelihood = total(density) + zeros * zero_density
    zero_part = zeros * zero_part
    n = zeros + np.bincount(gene, minlength=G)
    in_gamma = total(part) + zero_part
    in_normal = n - in_gamma
    sum_y, sum_log = total(part * y) + zero_part * ZERO_LEVEL, total(part * log_y) + zero_part * np.log(ZERO_LEVEL)
    rest, zero_rest = 1 - part, zeros - zero_part
    new_m = (total(rest * y) + zero_rest * ZERO_LEVEL) / np.maximum(in_normal, 1e-12)
    new_m = np.where(in_normal > 1e-9, new_m, m)
    square = total(rest * (y - new_m[gene]) ** 2) + zero_rest * (ZERO_LEVEL - new_m) ** 2
    new_s = np.where(in_normal > 1e-9, np.sqrt(square / np.maximum(in_normal, 1e-12)), s)
    has = in_gamma > 1e-9
    safe = np.where(has, in_gamma, 1.0)
    shape = gamma_shape(np.where(has, np.log(np.where(has, sum_y, 1.0) / safe) - sum_log / safe, 1.0))
    new_a = np.where(has, shape, a)
    new_b = np.where(has, new_a * safe / np.where(has, sum_y, 1.0), b)
    new_w = np.clip(in_gamma / n, 0, 1)
    return np.stack([new_w, new_a, new_b, new_m, np.maximum(new_s, MIN_SD), log_likelihood])


def gamma_shape(gap: np.ndarray) -> np.ndarray:
    """Maximum-likelihood shape a of a gamma: log a - digamma(a) = gap, log mean minus mean log; at most 20."""
    smallest = np.log(MAX_SHAPE) - special.digamma(MAX_SHAPE)
    t = np.maximum(gap, smallest)
    a = (3 - t + np.sqrt((t - 3) ** 2 + 24 * t)) / (12 * t)  # within 1.5 %
    for _ in range(3):  # Newton in 1 / a (Minka 2002), quadratic from there
        a = 1 / (1 / a + (np.log(a) - special.digamma(a) - t) / (a**2 * (1 / a - special.polygamma(1, a))))
    return np.where(gap <= smallest, MAX_SHAPE, np.minimum(a, MAX_SHAPE))
