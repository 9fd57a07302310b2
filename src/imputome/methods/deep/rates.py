"""The result of a count network as plain numpy: log-linear heads on a small hidden vector per cell.

Whatever depth the network has, its outputs are linear in the last hidden layer before a fixed link. So a fitted result
needs n x K hidden values and K x G weights per head, and any row, gene or entry is made from these on request, without
torch. Letters: ``n`` cells, ``G`` genes, ``K`` hidden units, ``l`` library size, ``m`` rate, ``z`` share of dropouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from imputome.core.imputation import Output
from imputome.core.scales import TARGET

LARGEST_LOG_RATE = 14.0  # 1.2 million molecules of one gene in one cell
LIMITS = {"odds": (-12.0, 12.0), "size": (-20.0, 20.0)}  # as in the likelihood
ENTRIES = 1 << 16  # single entries made at a time


@dataclass(frozen=True)
class Head:
    """A linear output: ``hidden @ weight + bias``.

    Attributes
    ----------
    weight : (K, G), or None where the output is the same for every cell.
    bias : (G,).
    log_softplus : whether the output is the log of the softplus of that (DCA's dispersion).
    """

    weight: np.ndarray | None
    bias: np.ndarray
    log_softplus: bool = False

    def rows(self, hidden: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        """(rows, genes) of cells with the given (rows, K) hidden values."""
        bias = self.bias if genes is None else self.bias[genes]
        if self.weight is None:
            return np.broadcast_to(self._linked(bias), (len(hidden), len(bias)))
        return self._linked(hidden @ (self.weight if genes is None else self.weight[:, genes]) + bias)

    def at(self, hidden: np.ndarray, j: np.ndarray) -> np.ndarray:
        """(m,) entries of m cells, given (m, K) hidden values, at the genes ``j``."""
        if self.weight is None:
            return self._linked(self.bias[j])
        return self._linked(np.einsum("mk,km->m", hidden, self.weight[:, j]) + self.bias[j])

    def _linked(self, values: np.ndarray) -> np.ndarray:
        if not self.log_softplus:
            return values
        # the softplus of a very negative number is its exponential
        return np.where(values < -20, values, np.log(np.logaddexp(0, np.maximum(values, -20)))).astype(values.dtype)


class LogLinearModel:
    """Rates, expected counts, dropouts and variances of a fitted count network (a `Model`).

    Parameters
    ----------
    hidden : (n, K) float32, last hidden layer.
    log_offset : (n,) float32, what is added to the mean head to give log m: the log library size minus the log of the
        softmax's denominator, or the log size factor. -inf gives a row of zeros.
    library : (n,) float32, the library size that ``normalized`` is per 10,000 of.
    mean : head of log m; a bias of -inf gives a column of zeros.
    zero : head of logit z, or None without zero inflation.
    dispersion : head of the negative binomial, or None for Poisson.
    latent : (n, latents) float32, the representation of the cells, if it is to be kept.
    factor : one number that the expected count is multiplied by, so that its sum is that of the counts.
    dispersion_is : what that head gives: ``"odds"``, theta = log m - log r with variance m (1 + exp theta), or
        ``"size"``, log r with variance m + m^2 / r.

    Outputs, all (cells, genes) float32: ``rate`` is m, the mean without dropouts; ``expected_count`` and ``value`` are
    (1 - z) m times ``factor``, which counts are compared with; ``normalized`` is m per 10,000 molecules of the library;
    ``variance`` is that of the fitted distribution of counts; ``dropout_probability`` is
    P(dropout | x = 0) = z / (z + (1 - z) f(0)).
    Cost: one product of (rows, K) and (K, genes) per head used.
    """

    def __init__(
        self,
        hidden: np.ndarray,
        *,
        log_offset: np.ndarray,
        library: np.ndarray,
        mean: Head,
        zero: Head | None = None,
        dispersion: Head | None = None,
        dispersion_is: Literal["odds", "size"] = "odds",
        latent: np.ndarray | None = None,
        factor: float = 1.0,
    ) -> None:
        self.hidden = hidden
        self.log_offset = log_offset
        self.library = library
        self.mean = mean
        self.zero = zero
        self.dispersion = dispersion
        self.dispersion_is = dispersion_is
        self.latent = latent
        self.factor = np.float32(factor)

    @property
    def outputs(self) -> frozenset[Output]:
        always: frozenset[Output] = frozenset({"value", "rate", "expected_count", "normalized", "variance"})
        return always if self.zero is None else always | {"dropout_probability"}

    def log_rows(self, rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        """Log m of some rows, -inf where it is 0."""
        return self.mean.rows(self.hidden[rows], genes) + self.log_offset[rows, None]

    def log_at(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Log m of single entries."""
        out = np.empty(len(i), np.float32)
        for start in range(0, len(i), ENTRIES):
            part = slice(start, start + ENTRIES)
            out[part] = self.mean.at(self.hidden[i[part]], j[part]) + self.log_offset[i[part]]
        return out

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        hidden = self.hidden[rows]
        return self._combine(
            self.log_rows(rows, genes),
            self.zero.rows(hidden, genes) if self._needs_zero(output) else None,  # type: ignore[union-attr]
            self.dispersion.rows(hidden, genes) if self._needs_dispersion(output) else None,  # type: ignore[union-attr]
            self.library[rows, None],
            output,
        )

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        out = np.empty(len(i), np.float32)
        for start in range(0, len(i), ENTRIES):
            cells, genes = i[start : start + ENTRIES], j[start : start + ENTRIES]
            hidden = self.hidden[cells]
            out[start : start + ENTRIES] = self._combine(
                self.mean.at(hidden, genes) + self.log_offset[cells],
                self.zero.at(hidden, genes) if self._needs_zero(output) else None,  # type: ignore[union-attr]
                self.dispersion.at(hidden, genes) if self._needs_dispersion(output) else None,  # type: ignore[union-attr]
                self.library[cells],
                output,
            )
        return out

    def _needs_zero(self, output: Output) -> bool:
        return self.zero is not None and output not in ("rate", "normalized")

    def _needs_dispersion(self, output: Output) -> bool:
        return self.dispersion is not None and output in ("variance", "dropout_probability")

    def _combine(
        self,
        log_rate: np.ndarray,
        logit: np.ndarray | None,
        dispersion: np.ndarray | None,
        library: np.ndarray,
        output: Output,
    ) -> np.ndarray:
        log_rate = np.minimum(log_rate, np.float32(LARGEST_LOG_RATE))
        rate = np.exp(log_rate)
        if output == "rate":
            return rate
        if output == "normalized":
            per = np.divide(np.float32(TARGET), library, out=np.zeros_like(library), where=library > 0)
            return rate * per
        kept = None if logit is None else _sigmoid(-logit)
        if output in ("value", "expected_count"):
            return self.factor * (rate if kept is None else rate * kept)
        # m / r and the log-probability of a zero
        odds, log_zero = (np.zeros_like(rate), -rate) if dispersion is None else self._odds(log_rate, dispersion)
        if output == "variance":
            variance = rate * (1 + odds)
            return variance if kept is None else kept * (variance + (1 - kept) * rate * rate)
        assert logit is not None  # noqa: S101  (the output is offered only with zero inflation)
        return np.where(rate > 0, _sigmoid(logit - log_zero), np.float32(0))

    def _odds(self, log_rate: np.ndarray, dispersion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = LIMITS[self.dispersion_is]
        dispersion = np.clip(dispersion, low, high)
        by_size = self.dispersion_is == "size"
        odds = np.exp(log_rate - dispersion if by_size else dispersion)
        size = np.exp(dispersion if by_size else log_rate - dispersion)
        return odds, -size * np.log1p(odds)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """Without overflow, float32 as given."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1, small) / (1 + small)
