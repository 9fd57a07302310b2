"""Likelihoods of decoders, as torch distributions: Poisson and negative binomial counts, zero inflation, Gaussian.

Counts are mostly zeros, and only nonzero counts need gamma functions. So a log-likelihood is the log-probability of a
zero, evaluated densely in the parameters' own precision, with the entries of the nonzero counts replaced by terms that
are evaluated in float64 and only there. Values come with hand-written partial derivatives: autograd through the same
formulas would give NaN or cancel at the extremes, and would keep many dense intermediates. The count likelihoods allow
one backward pass, and no second derivatives.

Every parameter in the stated range gives a finite value and a finite gradient in float32: log-rates from -60 to 14,
log-odds from -12 to 12, log-sizes from -20 to 20 (values outside are clamped), logits from -60 to 60, counts to 1e5.

Letters: ``B`` cells in the batch, ``G`` genes, ``nnz`` nonzero counts, ``m`` mean, ``r`` size of the negative
binomial, ``z`` share of dropouts, ``f0`` log-probability of a zero without dropout.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid, softplus

from imputome.errors import InputError

__all__ = ["Gaussian", "NegativeBinomial", "Poisson", "ZeroInflated"]

# values and their partial derivatives with respect to each parameter
Terms = tuple[Tensor, tuple[Tensor, ...]]
Shape = torch.Size | list[int] | tuple[int, ...]

BLOCK = 1 << 16  # entries: the intermediates of one block of rows stay in the processor's cache


class CountDistribution(Distribution):
    """Base of the count likelihoods: how terms at zeros and at nonzero counts become one log-likelihood."""

    support = constraints.nonnegative_integer

    @abstractmethod
    def _parameters(self) -> tuple[Tensor, ...]:
        """What `_zero_terms` and `_positive_terms` take, in this order."""

    @abstractmethod
    def _zero_terms(self, *parameters: Tensor) -> Terms:
        """Log-probability of a zero."""

    @abstractmethod
    def _positive_terms(self, x: Tensor, *parameters: Tensor) -> Terms:
        """Log-probability of counts x > 0; everything (nnz,), float64."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each count, constants included; ``value`` broadcasts against ``batch_shape``."""
        if self._validate_args:
            self._validate_sample(value)
        value, *parameters = torch.broadcast_tensors(value, *self._parameters())
        shape = value.shape
        width = shape[-1] if shape else 1
        value, *parameters = (each.reshape(-1, width) for each in (value, *parameters))
        rows, columns = value.nonzero(as_tuple=True)
        return _LogProb.apply(self, False, (rows, columns, value[rows, columns]), *parameters).reshape(shape)

    def log_prob_rows(self, rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
        """Log-likelihood of each cell from its nonzero counts: ``log_prob(dense).sum(-1)`` without the dense counts.

        Parameters
        ----------
        rows, columns : (nnz,) int64, place of each count in the (B, G) batch: row by row as in a CSR matrix, each place
            at most once.
        values : (nnz,) the counts; stored zeros are allowed.

        Returns
        -------
        (B,) log-likelihood, constants included.

        Raises
        ------
        InputError
            If the rows are not in ascending order.
        """
        if bool((rows[1:] < rows[:-1]).any()):
            raise InputError("log_prob_rows takes counts row by row: sort them by row, as in a CSR matrix")
        if not bool(values.all()):
            positive = values > 0
            rows, columns, values = rows[positive], columns[positive], values[positive]
        return _LogProb.apply(self, True, (rows, columns, values), *torch.broadcast_tensors(*self._parameters()))

    @property
    def log_zero(self) -> Tensor:
        """Log-probability of a zero."""
        return self.log_prob(torch.zeros((), device=self._parameters()[0].device))


class _LogProb(torch.autograd.Function):
    """(B, G) log-probabilities, or (B,) their sums, and in the same pass their partial derivatives."""

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

        step = max(1, BLOCK // max(G, 1)) if result.device.type == "cpu" else max(B, 1)
        starts = torch.arange(0, B + step, step, device=rows.device)
        ends = torch.searchsorted(rows, starts).tolist()
        for block, (begin, end) in enumerate(itertools.pairwise(ends)):
            inside = slice(block * step, (block + 1) * step)
            at = (rows[begin:end] - block * step) * G + columns[begin:end]
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
        # in place: in a training step fresh memory of this size costs more than the arithmetic
        gradient = gradient.unsqueeze(-1) if ctx.summed else gradient
        return (None, None, None, *(slope.mul_(gradient) for slope in ctx.saved_tensors))


class Poisson(CountDistribution):
    """Poisson whose mean m has the natural logarithm ``log_rate``."""

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

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        return torch.poisson(self.mean.expand(self._extended_shape(torch.Size(sample_shape))))

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
    """Negative binomial with mean m and size r: variance m + m^2 / r. Give ``log_odds`` or ``log_size``.

    Parameters
    ----------
    log_mean : log m.
    log_odds : theta = log m - log r, the parameter of ZiPo (paper 001, section II-D): variance m (1 + exp(theta)).
        Clamped to [-12, 12]; at -12 it is a Poisson but for 6e-6 of the variance. The gradient outside is that at the
        border, so that a value that strayed can come back.
    log_size : log r instead, per gene or per entry, as in DCA and scVI. Clamped to [-20, 20].

    Raises
    ------
    InputError
        If not exactly one of ``log_odds`` and ``log_size`` is given.
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
            raise InputError("a negative binomial takes either log_odds or log_size: give one of them")
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

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        gamma = torch._standard_gamma(self.log_size.exp().expand(shape))
        return torch.poisson(gamma * self.log_odds.exp())

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
        # d f0 / d theta = r (log(1 + odds) - p) with p = odds / (1 + odds). The two cancel towards the Poisson limit:
        # below p = 0.1 six terms of r (p^2 / 2 + p^3 / 3 + ...) leave 3e-7 of it
        p = odds.div_(odds + 1)
        series = p.mul(1 / 7).add_(1 / 6).mul_(p).add_(1 / 5).mul_(p).add_(1 / 4).mul_(p).add_(1 / 3)
        series = series.mul_(p).add_(1 / 2).mul_(p).mul_(p).mul_(size)
        exact = torch.addcmul(value, size, p).neg_()
        small = p.lt_(0.1)  # a mask in floats: torch.where on the CPU costs as much as three exponentials
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

    Both gamma functions are moved up by 6, where Stirling's series is exact to 1e-11, and the leading parts of the two
    series are subtracted in closed form: for a huge r the log-gammas agree in more digits than float64 has.
    """
    low, n = size + 6, size + x
    high = low + x
    step = torch.log1p(x / low)
    # what the move divides by: n (n + 1) ... (n + 5) = y (y + 4) (y + 6) with y = n (n + 5)
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
    """What follows (n - 1/2) log n - n + log(2 pi) / 2 in Stirling's series, and log n in the series of digamma."""
    v = 1 / n
    w = v * v
    tail = v * (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w * (1 / 1680 - w * (1 / 1188)))))
    slope = -0.5 * v - w * (1 / 12 - w * (1 / 120 - w * (1 / 252 - w * (1 / 240 - w * (1 / 132)))))
    return tail, slope


class ZeroInflated(CountDistribution):
    """A count distribution in which a share z = sigmoid(logit) of the counts was lost and reads zero.

    Paper 001, section II-D, by log-sigmoid throughout: log(1 - z) + f(x) for x > 0, and
    log(z + (1 - z) exp f0) = logit - logsigmoid(logit - f0) + logsigmoid(-logit) for x = 0.

    Parameters
    ----------
    base : the distribution before dropout: `Poisson` gives the ZIP, `NegativeBinomial` the ZINB.
    logit : logit of z, of a shape that expands to the ``batch_shape`` of ``base``.
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

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        lost = torch.rand(shape, device=self.logit.device) < torch.sigmoid(self.logit)
        return self.base.sample(sample_shape).masked_fill_(lost, 0)

    def _parameters(self) -> tuple[Tensor, ...]:
        return *self.base._parameters(), self.logit

    def _zero_terms(self, *parameters: Tensor) -> Terms:
        *base, logit = parameters
        f0, base_slopes = self.base._zero_terms(*base)
        kept = torch.sigmoid(-logit)
        q = torch.expm1(f0).mul_(kept).neg_()  # 1 - P(x = 0), accurate where it is small
        value = torch.log1p(-q)
        # where P(x = 0) is small instead, which is rare: most of those counts are not zero
        rare = (q > 0.5).nonzero(as_tuple=True)
        value[rare] = torch.logaddexp(logit[rare], f0[rare]) + logsigmoid(-logit[rare])
        by_f0 = torch.sigmoid(f0 - logit)
        by_logit = torch.sigmoid(logit - f0).mul_(q)  # P(dropout | x = 0) - z, without the cancellation
        return value, (*(slope * by_f0 for slope in base_slopes), by_logit)

    def _positive_terms(self, x: Tensor, *parameters: Tensor) -> Terms:
        *base, logit = parameters
        value, slopes = self.base._positive_terms(x, *base)
        return value + logsigmoid(-logit), (*slopes, -torch.sigmoid(logit))


class Gaussian(Distribution):
    """Normal distribution of real values.

    Parameters
    ----------
    mean : in the unit of the data.
    log_variance : clamped to [-10, 10], so that one entry that is predicted exactly cannot dominate a loss.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "log_variance": constraints.real}
    support = constraints.real

    def __init__(self, mean: Tensor, log_variance: Tensor, *, validate_args: bool = False) -> None:
        self.loc, log_variance = torch.broadcast_tensors(mean, log_variance)
        self.log_variance = log_variance.clamp(-10, 10)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.log_variance.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of each value, constants included."""
        if self._validate_args:
            self._validate_sample(value)
        squares = (value - self.loc).square() * torch.exp(-self.log_variance)
        return -0.5 * (squares + self.log_variance + math.log(2 * math.pi))

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        loc = self.loc.expand(self._extended_shape(torch.Size(sample_shape)))
        return torch.normal(loc, torch.exp(0.5 * self.log_variance).expand_as(loc))
