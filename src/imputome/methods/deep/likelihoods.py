"""Likelihoods of counts, as torch distributions: Poisson, negative binomial, and zero inflation of either.

Most counts are zeros, and only nonzero counts need gamma functions. So the log-probability of a zero is computed for
all entries, in the precision of the parameters; then the entries of nonzero counts are replaced by their own terms,
computed in float64 at these entries only. The partial derivatives are written by hand: autograd of the same formulas
gives NaN or loses precision at the extremes, and keeps many dense intermediates. The count likelihoods allow one
backward pass and no second derivatives.

These ranges give finite values and gradients in float32: log-rates from -60 to 14, log-odds from -12 to 12, log-sizes
from -20 to 20 (values outside are clamped), logits from -60 to 60, counts to 1e5.

Letters: ``B`` cells in the batch, ``G`` genes, ``nnz`` nonzero counts, ``m`` mean, ``r`` size of the negative
binomial, ``z`` share of dropouts, ``f0`` log-probability of a zero without dropout.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid, softplus

from imputome.errors import InputError

# values and their partial derivatives with respect to each parameter
Terms = tuple[Tensor, tuple[Tensor, ...]]

ENTRIES_PER_BLOCK = 1 << 16  # so that the intermediates of a block of rows stay in the processor's cache


class CountDistribution(Distribution):
    """Base of the count likelihoods: combines the terms of zeros and of nonzero counts."""

    support = constraints.nonnegative_integer

    @abstractmethod
    def _parameters(self) -> tuple[Tensor, ...]:
        """The parameters, in the order in which `_zero_terms` and `_positive_terms` take them."""

    @abstractmethod
    def _zero_terms(self, *parameters: Tensor) -> Terms:
        """Log-probability of a zero, and its partial derivatives."""

    @abstractmethod
    def _positive_terms(self, x: Tensor, *parameters: Tensor) -> Terms:
        """Log-probability of counts x > 0, and its partial derivatives; all (nnz,), float64."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each count, with constants; ``value`` broadcasts against ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        value, *parameters = torch.broadcast_tensors(value, *self._parameters())
        shape = value.shape
        width = shape[-1] if shape else 1
        value, *parameters = (each.reshape(-1, width) for each in (value, *parameters))
        rows, columns = value.nonzero(as_tuple=True)
        return _LogProb.apply(self, False, (rows, columns, value[rows, columns]), *parameters).reshape(shape)

    def log_prob_rows(self, rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
        """(B,) log-likelihood of each cell from its nonzero counts: ``log_prob(dense).sum(-1)`` without dense counts.

        ``rows`` and ``columns`` (nnz,) are the positions of the counts ``values`` in the (B, G) batch, row by row as in
        a CSR matrix, without duplicates; stored zeros are allowed.
        """
        if bool((rows[1:] < rows[:-1]).any()):
            raise InputError("counts must be in the order of a CSR matrix: sort them by row", code="rows-not-sorted")
        if not bool(values.all()):
            positive = values > 0
            rows, columns, values = rows[positive], columns[positive], values[positive]
        return _LogProb.apply(self, True, (rows, columns, values), *torch.broadcast_tensors(*self._parameters()))

    @property
    def log_zero(self) -> Tensor:
        """Log-probability of a zero."""
        return self.log_prob(torch.zeros((), device=self._parameters()[0].device))


class _LogProb(torch.autograd.Function):
    """(B, G) log-probabilities or their (B,) sums; the partial derivatives are made in the same pass."""

    @staticmethod
    def forward(
        ctx: Any, likelihood: CountDistribution, summed: bool, counts: tuple[Tensor, ...], *parameters: Tensor
    ) -> Tensor:
        ctx.summed = summed
        rows, columns, values = counts  # (nnz,) each
        B, G = parameters[0].shape
        positive, positive_slopes = likelihood._positive_terms(
            values.double(), *(parameter[rows, columns].double() for parameter in parameters)
        )
        replacements = [part.to(parameters[0].dtype) for part in (positive, *positive_slopes)]
        result = parameters[0].new_empty((B,) if summed else (B, G))
        slopes = [parameter.new_empty(B, G) for parameter in parameters] if any(ctx.needs_input_grad) else []

        step = max(1, ENTRIES_PER_BLOCK // max(G, 1)) if result.device.type == "cpu" else max(B, 1)
        starts = torch.arange(0, B + step, step, device=rows.device)
        ends = torch.searchsorted(rows, starts).tolist()
        for block, (begin, end) in enumerate(itertools.pairwise(ends)):
            inside = slice(block * step, (block + 1) * step)
            at = (rows[begin:end] - block * step) * G + columns[begin:end]  # positions in the flattened block
            value, zero_slopes = likelihood._zero_terms(*(parameter[inside] for parameter in parameters))
            value = value.reshape(-1).scatter(0, at, replacements[0][begin:end]).view(value.shape)
            result[inside] = value.sum(-1) if summed else value
            for slope, zero_slope, replacement in zip(slopes, zero_slopes, replacements[1:], strict=False):
                slope[inside] = zero_slope
                slope[inside].view(-1).scatter_(0, at, replacement[begin:end])
        ctx.save_for_backward(*slopes)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # in place: new memory of this size costs more than the arithmetic
        gradient = gradient.unsqueeze(-1) if ctx.summed else gradient
        return (None, None, None, *(slope.mul_(gradient) for slope in ctx.saved_tensors))


class Poisson(CountDistribution):
    """Poisson distribution with mean m = exp(log_rate)."""

    arg_constraints: ClassVar[dict[str, Any]] = {"log_rate": constraints.real}

    def __init__(self, log_rate: Tensor, *, validate_args: bool = False) -> None:
        self.log_rate = log_rate
        super().__init__(self.log_rate.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean

    def _parameters(self) -> tuple[Tensor, ...]:
        return (self.log_rate,)

    def _zero_terms(self, *parameters: Tensor) -> Terms:
        (log_rate,) = parameters
        value = log_rate.exp().neg_()
        return value, (value,)

    def _positive_terms(self, x: Tensor, *parameters: Tensor) -> Terms:
        (log_rate,) = parameters
        rate = log_rate.exp()
        return x * log_rate - rate - torch.lgamma(x + 1), (x - rate,)


class NegativeBinomial(CountDistribution):
    """Negative binomial with mean m and size r, and variance m + m^2 / r. Give ``log_odds`` or ``log_size``.

    ``log_odds`` is theta = log m - log r, the parameter of ZiPo (paper 001, section II-D): variance m (1 + exp(theta)).
    It is clamped to [-12, 12]; at -12 the variance is that of a Poisson up to 6e-6. The gradient outside is that at the
    bound, so that a value outside can come back. ``log_size`` is log r, per gene or per entry, as in DCA and scVI,
    clamped to [-20, 20].
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"log_mean": constraints.real}

    def __init__(
        self,
        log_mean: Tensor,
        log_odds: Tensor | None = None,
        *,
        log_size: Tensor | None = None,
        validate_args: bool = False,
    ) -> None:
        if (log_odds is None) == (log_size is None):
            raise InputError(
                "a negative binomial takes either log_odds or log_size: give one of them", code="dispersion-arguments"
            )
        self._sized = log_size is not None
        second = log_odds if log_size is None else log_size.clamp(-20, 20)
        self.log_mean, self._second = torch.broadcast_tensors(log_mean, second)
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    @property
    def log_odds(self) -> Tensor:
        return self._log_odds(self.log_mean, self._second)

    @property
    def log_size(self) -> Tensor:
        return self.log_mean - self.log_odds

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 + self.log_odds.exp())

    def _parameters(self) -> tuple[Tensor, ...]:
        return self.log_mean, self._second

    def _log_odds(self, log_mean: Tensor, second: Tensor) -> Tensor:
        return log_mean - second if self._sized else second.clamp(-12, 12)

    def _slopes(self, by_mean: Tensor, by_odds: Tensor) -> tuple[Tensor, Tensor]:
        return (by_mean + by_odds, -by_odds) if self._sized else (by_mean, by_odds)

    def _zero_terms(self, *parameters: Tensor) -> Terms:
        log_mean, second = parameters
        log_odds = self._log_odds(log_mean, second)
        size = (log_mean - log_odds).exp_()
        odds = log_odds.exp()
        value = torch.log1p(odds).mul_(size).neg_()  # f0 = -r log(1 + odds)
        # d f0 / d theta = r (log(1 + odds) - p) with p = odds / (1 + odds). The difference loses precision towards the
        # Poisson limit: below p = 0.1 six terms of r (p^2 / 2 + p^3 / 3 + ...) are used, with an error of 3e-7
        p = odds.div_(odds + 1)
        series = p.mul(1 / 7).add_(1 / 6).mul_(p).add_(1 / 5).mul_(p).add_(1 / 4).mul_(p).add_(1 / 3)
        series = series.mul_(p).add_(1 / 2).mul_(p).mul_(p).mul_(size)
        exact = torch.addcmul(value, size, p).neg_()
        small = p.lt_(0.1)  # a mask of floats: torch.where on the CPU costs as much as three exponentials
        return value, self._slopes(value, exact.lerp_(series, small))

    def _positive_terms(self, x: Tensor, *parameters: Tensor) -> Terms:
        log_mean, second = parameters
        log_odds = self._log_odds(log_mean, second)
        log_size = log_mean - log_odds
        size = log_size.exp()
        log_total = softplus(log_odds, threshold=40)  # log(1 + odds)
        ratio, ratio_slope = _log_gamma_ratio(size, log_size, x)
        value = x * log_mean - (x + size) * log_total + ratio - torch.lgamma(x + 1)
        by_mean = ratio_slope - size * log_total  # at fixed odds, where the size grows with the mean
        by_odds = (x - log_mean.exp()) * torch.sigmoid(-log_odds) - by_mean
        return value, self._slopes(by_mean, by_odds)


def _log_gamma_ratio(size: Tensor, log_size: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """log of Gamma(r + x) / (Gamma(r) r^x), and r (psi(r + x) - psi(r)); float64, for r from 0 to 1e12.

    Both arguments are increased by 6, where Stirling's series is exact to 1e-11. The leading parts of the two series
    are subtracted in closed form, because for a large r the log-gammas agree in all digits of float64.
    """
    low, n = size + 6, size + x
    high = low + x
    step = torch.log1p(x / low)
    # the increase divides by n (n + 1) ... (n + 5) = y (y + 4) (y + 6) with y = n (n + 5)
    y_low, y_high = size * (size + 5), n * (n + 5)
    rest_low, product_high = (y_low + 4) * (y_low + 6), y_high * (y_high + 4) * (y_high + 6)
    moved = log_size + ((size + 5) * rest_low).log() - product_high.log()  # finite where r underflows
    slope_low = (2 * size + 5) * (1 / (size + 5) + size * (2 * y_low + 10) / rest_low)
    slope_high = (2 * n + 5) * (3 * y_high * y_high + 20 * y_high + 24) / product_high
    tail_low, digamma_low = _stirling(low)
    tail_high, digamma_high = _stirling(high)
    ratio = (high - 0.5) * step - x + x * (low.log() - log_size) + moved + tail_high - tail_low
    return ratio, size * (step + digamma_high - digamma_low - slope_high) + slope_low


def _stirling(n: Tensor) -> tuple[Tensor, Tensor]:
    """The terms after (n - 1/2) log n - n + log(2 pi) / 2 in Stirling's series, and after log n in that of digamma."""
    v = 1 / n
    w = v * v
    tail = v * (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w * (1 / 1680 - w * (1 / 1188)))))
    slope = -0.5 * v - w * (1 / 12 - w * (1 / 120 - w * (1 / 252 - w * (1 / 240 - w * (1 / 132)))))
    return tail, slope


class ZeroInflated(CountDistribution):
    """A count distribution in which a share z = sigmoid(logit) of the counts is lost and observed as zero.

    Paper 001, section II-D, written with log-sigmoids: log(1 - z) + f(x) for x > 0, and
    log(z + (1 - z) exp f0) = logit - logsigmoid(logit - f0) + logsigmoid(-logit) for x = 0.

    ``base`` is the distribution before dropout: `Poisson` gives the ZIP, `NegativeBinomial` the ZINB. ``logit``, the
    logit of z, expands to its ``batch_shape``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logit": constraints.real}

    def __init__(self, base: CountDistribution, logit: Tensor, *, validate_args: bool = False) -> None:
        self.base = base
        self.logit = logit.expand(base.batch_shape)
        super().__init__(base.batch_shape, validate_args=validate_args)

    @property
    def rate(self) -> Tensor:
        """Mean m before dropout."""
        return self.base.mean

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.logit) * self.rate

    @property
    def variance(self) -> Tensor:
        rate = self.rate
        return torch.sigmoid(-self.logit) * (self.base.variance + torch.sigmoid(self.logit) * rate * rate)

    @property
    def dropout_probability(self) -> Tensor:
        """P(dropout | x = 0) = z / (z + (1 - z) exp f0)."""
        return torch.sigmoid(self.logit - self.base.log_zero)

    def _parameters(self) -> tuple[Tensor, ...]:
        return *self.base._parameters(), self.logit

    def _zero_terms(self, *parameters: Tensor) -> Terms:
        *base, logit = parameters
        f0, base_slopes = self.base._zero_terms(*base)
        kept = torch.sigmoid(-logit)
        q = torch.expm1(f0).mul_(kept).neg_()  # 1 - P(x = 0), accurate where it is small
        value = torch.log1p(-q)
        # where P(x = 0) is small, which is rare because most of those counts are not zero
        rare = (q > 0.5).nonzero(as_tuple=True)
        value[rare] = torch.logaddexp(logit[rare], f0[rare]) + logsigmoid(-logit[rare])
        by_f0 = torch.sigmoid(f0 - logit)
        by_logit = torch.sigmoid(logit - f0).mul_(q)  # P(dropout | x = 0) - z, without loss of precision
        return value, (*(slope * by_f0 for slope in base_slopes), by_logit)

    def _positive_terms(self, x: Tensor, *parameters: Tensor) -> Terms:
        *base, logit = parameters
        value, slopes = self.base._positive_terms(x, *base)
        return value + logsigmoid(-logit), (*slopes, -torch.sigmoid(logit))
