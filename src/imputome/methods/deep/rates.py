"""The result of a fitted count network in plain numpy: linear outputs of a small hidden vector per cell.

All outputs of a count network are linear in its last hidden layer, followed by a fixed link. So a fitted result needs
n x K hidden values and K x G weights per output; any row, gene or entry is computed from these on request, without
torch. Letters: ``n`` cells, ``G`` genes, ``K`` hidden units, ``l`` library size, ``m`` rate, ``z`` share of dropouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np

from imputome.core.imputation import Output
from imputome.core.scales import TARGET

LARGEST_LOG_RATE = 14.0  # 1.2 million molecules of one gene in one cell
DISPERSION_LIMITS = {"odds": (-12.0, 12.0), "size": (-20.0, 20.0)}  # as in the likelihood
ENTRIES_PER_STEP = 1 << 16  # single entries computed at once
VALUES_PER_BLOCK = 2**22  # dense values computed at once


@dataclass(frozen=True)
class LinearOutput:
    """A linear output of the last hidden layer: ``hidden @ weight + bias``."""

    weight: np.ndarray | None  # (K, G); None if the output is the same for every cell
    bias: np.ndarray  # (G,)
    log_softplus: bool = False  # whether the output is the log of the softplus of that (DCA's dispersion)

    def rows(self, hidden: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        """(rows, genes) values of cells with (rows, K) hidden values."""
        bias = self.bias if genes is None else self.bias[genes]
        if self.weight is None:
            return np.broadcast_to(self._linked(bias), (len(hidden), len(bias)))
        return self._linked(hidden @ (self.weight if genes is None else self.weight[:, genes]) + bias)

    def at(self, hidden: np.ndarray, j: np.ndarray) -> np.ndarray:
        """(m,) values of m cells, with (m, K) hidden values, at the genes ``j``."""
        if self.weight is None:
            return self._linked(self.bias[j])
        return self._linked(np.einsum("mk,km->m", hidden, self.weight[:, j]) + self.bias[j])

    def _linked(self, values: np.ndarray) -> np.ndarray:
        if not self.log_softplus:
            return values
        # the softplus of a very negative number is its exponential
        return np.where(values < -20, values, np.log(np.logaddexp(0, np.maximum(values, -20)))).astype(values.dtype)


@dataclass(frozen=True, eq=False)
class LogLinearModel:
    """Rates, expected counts, dropouts and variances of a fitted count network (a `Model`).

    Outputs, all (cells, genes) float32: ``rate`` is m, the mean without dropouts; ``expected_count`` and ``value`` are
    (1 - z) m times ``factor``, on the scale of the counts; ``normalized`` is m per 10,000 molecules of the library;
    ``variance`` is that of the fitted distribution of counts; ``dropout_probability`` is
    P(dropout | x = 0) = z / (z + (1 - z) f(0)).
    Cost: one product of (rows, K) and (K, genes) for each linear output used.
    """

    hidden: np.ndarray  # (n, K) last hidden layer
    _: KW_ONLY
    # (n,) added to ``mean`` to give log m: the log library size minus the log of the softmax's denominator, or the log
    # size factor; -inf gives a row of zeros
    log_offset: np.ndarray
    library: np.ndarray  # (n,) for ``normalized``
    mean: LinearOutput  # a bias of -inf gives a column of zeros
    zero: LinearOutput | None = None  # logit z; None without zero inflation
    dispersion: LinearOutput | None = None  # of the negative binomial; None for Poisson
    # what ``dispersion`` gives: theta = log m - log r, with variance m (1 + exp theta), or log r, with variance
    # m + m^2 / r
    dispersion_is: Literal["odds", "size"] = "odds"
    latent: np.ndarray | None = None  # (n, latents), represents the cells
    factor: float = 1.0  # makes the sum of the expected counts that of the counts

    @property
    def outputs(self) -> frozenset[Output]:
        always: frozenset[Output] = frozenset({"value", "rate", "expected_count", "normalized", "variance"})
        return always if self.zero is None else always | {"dropout_probability"}

    def log_rows(self, rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        """(rows, genes) log m of some rows, -inf if m is 0."""
        return self.mean.rows(self.hidden[rows], genes) + self.log_offset[rows, None]

    def log_at(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """(entries,) log m of single entries."""
        return in_steps(lambda i, j: self.mean.at(self.hidden[i], j) + self.log_offset[i], i, j)

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        hidden = self.hidden[rows]
        return self._values(output, rows[:, None], lambda linear: linear.rows(hidden, genes))

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        def values(i: np.ndarray, j: np.ndarray) -> np.ndarray:
            hidden = self.hidden[i]
            return self._values(output, i, lambda linear: linear.at(hidden, j))

        return in_steps(values, i, j)

    def _values(self, output: Output, cells: np.ndarray, linear: Callable[[LinearOutput], np.ndarray]) -> np.ndarray:
        """``output`` of entries in these ``cells``, from the values that ``linear`` gives of each linear output."""
        log_rate = np.minimum(linear(self.mean) + self.log_offset[cells], np.float32(LARGEST_LOG_RATE))
        rate = np.exp(log_rate)
        if output == "rate":
            return rate
        if output == "normalized":
            library = self.library[cells]
            return rate * np.divide(np.float32(TARGET), library, out=np.zeros_like(library), where=library > 0)
        logit = None if self.zero is None else linear(self.zero)
        kept = None if logit is None else _sigmoid(-logit)
        if output in ("value", "expected_count"):
            return np.float32(self.factor) * (rate if kept is None else rate * kept)
        odds, log_zero = np.zeros_like(rate), -rate  # m / r, and the log-probability of a zero
        if self.dispersion is not None:
            dispersion = np.clip(linear(self.dispersion), *DISPERSION_LIMITS[self.dispersion_is])
            by_size = self.dispersion_is == "size"
            odds = np.exp(log_rate - dispersion if by_size else dispersion)
            log_zero = -np.exp(dispersion if by_size else log_rate - dispersion) * np.log1p(odds)
        if output == "variance":
            variance = rate * (1 + odds)
            return variance if kept is None else kept * (variance + (1 - kept) * rate * rate)
        assert logit is not None  # noqa: S101  (the output is offered only with zero inflation)
        return np.where(rate > 0, _sigmoid(logit - log_zero), np.float32(0))


def in_steps(compute: Callable[[np.ndarray, np.ndarray], np.ndarray], i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """(entries,) float32 values of the entries (i, j), computed `ENTRIES_PER_STEP` at a time."""
    out = np.empty(len(i), np.float32)
    for start in range(0, len(i), ENTRIES_PER_STEP):
        part = slice(start, start + ENTRIES_PER_STEP)
        out[part] = compute(i[part], j[part])
    return out


def row_blocks(n: int, n_columns: int, values: int | None = None) -> Iterator[np.ndarray]:
    """Positions of n rows, in blocks with at most ``values`` entries (None: `VALUES_PER_BLOCK`)."""
    step = max(1, (values or VALUES_PER_BLOCK) // n_columns)
    return (np.arange(start, min(n, start + step)) for start in range(0, n, step))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """Sigmoid without overflow; float32 stays float32."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1, small) / (1 + small)
