"""Two cell types with known differences, fitted to a data set: a simulator after scDesign (Li & Li 2019).

Letters: ``n`` cells (rows), ``G`` genes (columns). A *level* is log10(x + 1.01), x the count of a cell scaled to the
median library; its smallest value, that of a zero, is `POINT`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from imputome.core.data import clean_csr, in_memory
from imputome.errors import InputError
from imputome.evaluation.simulate import Simulation, draw_fold_changes

if TYPE_CHECKING:
    import scipy.sparse as sp

POINT = np.log10(1.01)
MAX_SHAPE = 20.0  # of the gamma: zeros alone would send it to infinity
MIN_SPREAD = 0.01  # of the normal, in log10: one detected cell, or equal ones, have none
TOLERANCE = 1e-6  # relative gain in log-likelihood at which a gene's EM stops
BINS = 15  # of the mean level, from which spreads and dropout rates are drawn


@dataclass(frozen=True)
class ScDesign:
    """Parameters of every gene with a count, and of the cells, as `fit_scdesign` found them.

    Attributes
    ----------
    dropout_rate : (G,) weight of the gamma component: probability of a dropout.
    shape, rate : (G,) of the gamma.
    mean, spread : (G,) of the normal: level where expressed.
    log_likelihood : (G,) of the mixture density at the end.
    genes : (G,) columns of the data that have a count.
    library : (n,) molecules per cell.
    zero_share : (n,) share of zeros among all genes of the data.
    max_level : largest level of the data; no simulated one is above.
    steps : EM steps until the last gene stopped.
    unconverged : number of genes that had not stopped by then.
    """

    dropout_rate: np.ndarray
    shape: np.ndarray
    rate: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    log_likelihood: np.ndarray
    genes: np.ndarray
    library: np.ndarray
    zero_share: np.ndarray
    max_level: float
    steps: int
    unconverged: int

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

        Mean levels are drawn from a gamma with the moments of the fitted ones, spreads and dropout rates from fitted
        genes of a similar mean. A gene that differs has its mean level raised by log10 of the fold change in type 1
        (up) or in type 0 (down), and its spread and dropout rate drawn again there. Levels are normal, dropouts fall
        on cells in proportion to their share of zeros, 10^level - 1.01 times the cell's library gives proportions, and
        one multinomial over the whole matrix gives counts.

        Parameters
        ----------
        cells_per_type : cells of each of the two types.
        de_share, fold_change : share of differing genes (half up, half down), range of the uniform fold change.
        depth : molecules in all; None takes the median library times the number of cells.

        Returns
        -------
        Simulation with ``fold_change`` of shape (2, G), 1 in type 0 and below 1 for down genes in type 1; ``rate`` is
        expected before dropouts, ``realised`` the mean of the multinomial.

        Raises
        ------
        InputError
            Too few genes have room under the largest mean level for the largest fold change; a size below one.

        Notes
        -----
        Departures from the R package: one multinomial over both types, where it draws one for each; and a gene goes
        down by being higher in the other type, where the package subtracts and then sets means under the smallest
        level to 0.1, which shrinks fold changes and turns some of them round. As published, zeros arise twice, as
        dropouts and in the multinomial: on 10x data genes of mean 1 to 4 have 0.1 to 0.2 more zeros than real ones and
        about 1.7 times their variance.
        """
        import pandas as pd
        import scipy.sparse as sp

        G, n = len(self.genes), 2 * cells_per_type
        if cells_per_type < 2 or not 0 <= de_share <= 1 or not 1 <= fold_change[0] <= fold_change[1]:
            raise InputError(
                f"cells_per_type ({cells_per_type}) must be at least 2, de_share ({de_share}) a share, and fold_change "
                f"({fold_change}) low and high, both at least 1"
            )
        total = round(float(np.median(self.library)) * n) if depth is None else depth
        if total < 1:
            raise InputError(f"depth is {total}: at least one molecule is needed")
        base = self._draw_means(rng)
        change = self._draw_changes(base, de_share, fold_change, rng)
        # both directions raise a mean, so no fold change meets the floor
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
        return np.maximum(drawn, POINT)

    def _draw_changes(
        self, base: np.ndarray, share: float, bounds: tuple[float, float], rng: np.random.Generator
    ) -> np.ndarray:
        G = len(base)
        # above the largest fitted mean, levels would be cut off at the largest level and the fold change lost
        room = np.flatnonzero(base + np.log10(bounds[1]) <= max(self.mean.max(), base.max()))
        drawn = draw_fold_changes(G, share, bounds, rng)
        drawn = drawn[drawn != 1]
        if len(drawn) > len(room):
            raise InputError(
                f"{len(drawn)} genes should differ, but only {len(room)} of {G} can be raised {bounds[1]:g}-fold "
                "within the fitted range: lower de_share or fold_change"
            )
        change = np.ones(G)
        change[rng.choice(room, size=len(drawn), replace=False)] = drawn
        return change

    def _like(self, means: np.ndarray, fitted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For every mean level a value drawn from the fitted genes in the same, or the nearest filled, bin."""
        inner = np.linspace(self.mean.min(), self.mean.max(), BINS)[1:-1]
        source = np.searchsorted(inner, self.mean, side="right")
        order = np.argsort(source, kind="stable")
        filled, start, size = np.unique(source[order], return_index=True, return_counts=True)
        wanted = np.searchsorted(inner, means, side="right")
        nearest = np.abs(wanted[:, None] - filled).argmin(axis=1)
        return fitted[order[start[nearest] + rng.integers(0, size[nearest])]]

    def _draw_levels(self, means: np.ndarray, spread: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """(n, G) normal levels; those at or under the level of a zero become the gene's smallest above it."""
        level = means + spread * rng.standard_normal((n, len(means)))
        above = level > POINT
        smallest = np.where(above, level, np.inf).min(axis=0)
        smallest = np.where(np.isfinite(smallest), smallest, POINT)
        return np.minimum(np.where(above, level, smallest), self.max_level)

    def _draw_dropouts(self, rate: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """(n, G) boolean: a binomial number of dropouts a gene, in cells by weighted draws without replacement."""
        number = rng.binomial(n, np.clip(rate, 0, 1))
        weight = np.maximum(rng.choice(self.zero_share, size=n), 1e-9)
        # the smallest of exponential waiting times are such a weighted draw (Efraimidis & Spirakis 2006)
        waiting = rng.standard_exponential((n, len(rate))) / weight[:, None]
        place = np.empty(waiting.shape, dtype=np.int64)
        np.put_along_axis(place, waiting.argsort(axis=0), np.arange(n)[:, None], axis=0)
        return place < number


def fit_scdesign(X: Any, *, max_steps: int = 500) -> ScDesign:
    """Fit scDesign's mixture to every gene of a count matrix, by EM.

    Counts are scaled to the median library and taken to levels y = log10(x + 1.01); each gene is
    ``w Gamma(y; a, b) + (1 - w) Normal(y; m, s^2)``, the gamma standing for dropouts. All genes step at once, with the
    zeros of a gene as one weighted value; a gene stops when its log-likelihood gains less than 1e-6 of itself.

    Parameters
    ----------
    X : (n, G) counts, dense or sparse; genes without a count are left out.
    max_steps : EM steps at most.

    Raises
    ------
    InputError
        Negative or missing values, no counts at all.

    References
    ----------
    Li & Li 2019, Bioinformatics 35:i41. The gamma's shape is kept under 20 as in the R package, the
    normal's spread above 0.01.
    """
    import scipy.sparse as sp

    counts = clean_csr(in_memory(X))
    if counts.nnz == 0 or np.isnan(counts.data).any() or counts.data.min() < 0:
        raise InputError("counts without NaN and negative values, and not all zero, are needed: pass the raw counts")
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


def fit_mixture(levels: sp.csc_array, *, max_steps: int) -> tuple[np.ndarray, int, int]:
    """EM for all columns of levels (stored where above `POINT`): w, a, b, m, s and log-likelihood as (6, G).

    Returns
    -------
    mixture : (6, G).
    steps : taken.
    unconverged : number of genes that had not stopped.
    """
    n, G = levels.shape
    size = np.diff(levels.indptr).astype(np.float64)
    zeros = n - size
    gene = np.repeat(np.arange(G), np.diff(levels.indptr))
    y = levels.data
    m = np.bincount(gene, weights=y, minlength=G) / size
    s = np.sqrt(np.bincount(gene, weights=(y - m[gene]) ** 2, minlength=G) / np.maximum(size - 1, 1))
    mixture = np.empty((6, G))
    mixture[:5] = np.where(zeros > 0, zeros / n, 0.01), np.full(G, 0.5), np.ones(G), m, np.maximum(s, MIN_SPREAD)
    mixture[5] = -np.inf
    active = np.arange(G)
    log_y = np.log(y)
    for step in range(1, max_steps + 1):
        before = mixture[5, active]
        updated = _em_step(mixture[:5, active], y, log_y, gene, zeros[active])
        gained = updated[5] - before
        open_ = ~(gained <= TOLERANCE * np.abs(updated[5]))
        # the likelihood is that of the parameters the step began with: a gene that stops keeps those
        mixture[5, active] = updated[5]
        mixture[:5, active[open_]] = updated[:5, open_]
        if not open_.any():
            return mixture, step, 0
        kept = open_[gene]
        if not kept.all():
            y, log_y, gene = y[kept], log_y[kept], (np.cumsum(open_) - 1)[gene[kept]]
        active = active[open_]
    return mixture, max_steps, len(active)


def _em_step(parameters: np.ndarray, y: np.ndarray, log_y: np.ndarray, gene: np.ndarray, zeros: np.ndarray) -> Any:
    """One step for G genes: (6, G), new parameters and the log-likelihood of the old ones."""
    w, a, b, m, s = parameters
    G = len(w)
    with np.errstate(divide="ignore"):  # a weight of exactly 0 or 1 is a component that is not there
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
    zero_part, zero_density = responsible(POINT, np.log(POINT), slice(None))
    log_likelihood = total(density) + zeros * zero_density
    zero_part = zeros * zero_part
    n = zeros + np.bincount(gene, minlength=G)
    in_gamma = total(part) + zero_part
    in_normal = n - in_gamma
    sum_y, sum_log = total(part * y) + zero_part * POINT, total(part * log_y) + zero_part * np.log(POINT)
    rest, zero_rest = 1 - part, zeros - zero_part
    new_m = (total(rest * y) + zero_rest * POINT) / np.maximum(in_normal, 1e-12)
    new_m = np.where(in_normal > 1e-9, new_m, m)
    square = total(rest * (y - new_m[gene]) ** 2) + zero_rest * (POINT - new_m) ** 2
    new_s = np.where(in_normal > 1e-9, np.sqrt(square / np.maximum(in_normal, 1e-12)), s)
    has = in_gamma > 1e-9
    safe = np.where(has, in_gamma, 1.0)
    shape = gamma_shape(np.where(has, np.log(np.where(has, sum_y, 1.0) / safe) - sum_log / safe, 1.0))
    new_a = np.where(has, shape, a)
    new_b = np.where(has, new_a * safe / np.where(has, sum_y, 1.0), b)
    new_w = np.clip(in_gamma / n, 0, 1)
    return np.stack([new_w, new_a, new_b, new_m, np.maximum(new_s, MIN_SPREAD), log_likelihood])


def gamma_shape(gap: np.ndarray) -> np.ndarray:
    """Maximum-likelihood shape a of a gamma: log a - digamma(a) = gap, log of the mean less mean of the logs; <= 20."""
    smallest = np.log(MAX_SHAPE) - special.digamma(MAX_SHAPE)
    t = np.maximum(gap, smallest)
    a = (3 - t + np.sqrt((t - 3) ** 2 + 24 * t)) / (12 * t)  # within 1.5 %
    for _ in range(3):  # Newton in 1 / a (Minka 2002), quadratic from there
        a = 1 / (1 / a + (np.log(a) - special.digamma(a) - t) / (a**2 * (1 / a - special.polygamma(1, a))))
    return np.where(gap <= smallest, MAX_SHAPE, np.minimum(a, MAX_SHAPE))
