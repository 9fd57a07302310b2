"""The result of a fitted count network in plain numpy: linear outputs of a small hidden vector per cell.

All outputs of a count network are linear in its last hidden layer, followed by a fixed link. So a fitted result needs
n x K hidden values and K x G weights per output; any row, gene or entry is computed from these on request, without
torch. Letters: ``n`` cells, ``G`` genes, ``K`` hidden units, ``l`` library size, ``m`` rate, ``z`` share of dropouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from imputome.core.imputation import Output
from imputome.core.scales import TARGET

LARGEST_LOG_RATE = 14.0  # 1.2 million molecules of one gene in one cell
DISPERSION_LIMITS = {"odds": (-12.0, 12.0), "size": (-20.0, 20.0)}  # as in the likelihood
ENTRIES_PER_STEP = 1 << 16  # single entries computed at once


@dataclass(frozen=True)
class LinearOutput:
    """A linear output of the last hidden layer: ``hidden @ weight + bias``.

    Attributes
    ----------
    weight : ndarray of shape (K, G) or None
        None if the output is the same for every cell.
    bias : ndarray of shape (G,)
    log_softplus : bool
        Whether the output is the log of the softplus of that (DCA's dispersion).
    """

    weight: np.ndarray | None
    bias: np.ndarray
    log_softplus: bool = False

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


class LogLinearModel:
    """Rates, expected counts, dropouts and variances of a fitted count network (a `Model`).

    Outputs, all (cells, genes) float32: ``rate`` is m, the mean without dropouts; ``expected_count`` and ``value`` are
    (1 - z) m times ``factor``, on the scale of the counts; ``normalized`` is m per 10,000 molecules of the library;
    ``variance`` is that of the fitted distribution of counts; ``dropout_probability`` is
    P(dropout | x = 0) = z / (z + (1 - z) f(0)).
    Cost: one product of (rows, K) and (K, genes) for each linear output used.

    Parameters
    ----------
    hidden : ndarray of shape (n, K), float32
        Last hidden layer.
    log_offset : ndarray of shape (n,), float32
        Added to the output ``mean`` to give log m: the log library size minus the log of the softmax's denominator, or
        the log size factor. -inf gives a row of zeros.
    library : ndarray of shape (n,), float32
        Library size for ``normalized``.
    mean : LinearOutput
        Gives log m; a bias of -inf gives a column of zeros.
    zero : LinearOutput or None, default=None
        Gives logit z; None without zero inflation.
    dispersion : LinearOutput or None, default=None
        Gives the dispersion of the negative binomial; None for Poisson.
    dispersion_is : {"odds", "size"}, default="odds"
        What ``dispersion`` gives: theta = log m - log r, with variance m (1 + exp theta), or log r, with variance
        m + m^2 / r.
    latent : ndarray of shape (n, latents), float32, or None, default=None
        Representation of the cells, if it is kept.
    factor : float, default=1.0
        Factor of the expected count, so that its sum is that of the counts.
    """

    def __init__(
        self,
        hidden: np.ndarray,
        *,
        log_offset: np.ndarray,
        library: np.ndarray,
        mean: LinearOutput,
        zero: LinearOutput | None = None,
        dispersion: LinearOutput | None = None,
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
        """(rows, genes) log m of some rows, -inf if m is 0."""
        return self.mean.rows(self.hidden[rows], genes) + self.log_offset[rows, None]

    def log_at(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """(entries,) log m of single entries."""
        out = np.empty(len(i), np.float32)
        for start in range(0, len(i), ENTRIES_PER_STEP):
            part = slice(start, start + ENTRIES_PER_STEP)
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
        for start in range(0, len(i), ENTRIES_PER_STEP):
            cells, genes = i[start : start + ENTRIES_PER_STEP], j[start : start + ENTRIES_PER_STEP]
            hidden = self.hidden[cells]
            out[start : start + ENTRIES_PER_STEP] = self._combine(
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
        # m / r, and the log-probability of a zero
        odds, log_zero = (np.zeros_like(rate), -rate) if dispersion is None else self._odds(log_rate, dispersion)
        if output == "variance":
            variance = rate * (1 + odds)
            return variance if kept is None else kept * (variance + (1 - kept) * rate * rate)
        assert logit is not None  # noqa: S101  (the output is offered only with zero inflation)
        return np.where(rate > 0, _sigmoid(logit - log_zero), np.float32(0))

    def _odds(self, log_rate: np.ndarray, dispersion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """m / r, and the log-probability of a zero of the negative binomial."""
        low, high = DISPERSION_LIMITS[self.dispersion_is]
        dispersion = np.clip(dispersion, low, high)
        by_size = self.dispersion_is == "size"
        odds = np.exp(log_rate - dispersion if by_size else dispersion)
        size = np.exp(dispersion if by_size else log_rate - dispersion)
        return odds, -size * np.log1p(odds)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """Sigmoid without overflow; float32 stays float32."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1, small) / (1 + small)
