"""The likelihoods against mpmath (values and gradients in float32, extremes included), scipy and themselves, sparsely.

Tolerances, float32. Nonzero counts are evaluated in float64, so that only the last rounding is left: 1e-6. A zero is
evaluated in float32, where the exponent of exp(log m - theta), up to 72, is rounded at 4e-6 of exp: 1e-5. A derivative
that holds exp(f0) moves by |f0| times the relative error of f0: 1e-5 (1 + |f0|) of it, while it is not yet negligible.
"""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
import scipy.stats

torch = pytest.importorskip("torch")

from codes import has_code  # noqa: E402
from imputome.errors import InputError  # noqa: E402
from imputome.methods.deep.likelihoods import NegativeBinomial, Poisson, ZeroInflated  # noqa: E402

mp = mpmath.mp.clone()
mp.dps = 60
LOG_RATES = (-60.0, -12.3, -1.7, 0.4, 5.1, 14.0)
LOG_ODDS = (-12.0, -6.5, -2.25, -2.15, 0.3, 4.7, 12.0)
LOG_SIZES = (-20.0, -3.3, 0.9, 12.7, 20.0)
LOGITS = (-60.0, -7.7, -0.3, 2.6, 60.0)
COUNTS = (0.0, 1.0, 2.0, 7.0, 160.0, 99_999.0)


def plain(name):
    """The distribution as text-book formulas: log-probability as a function of (x, parameters), in mpmath."""

    def poisson(x, a):
        return x * a - mp.exp(a) - mp.loggamma(x + 1)

    def nb(x, a, size):
        m = mp.exp(a)
        rising = mp.loggamma(size + x) - mp.loggamma(size) - mp.loggamma(x + 1)
        return rising + x * mp.log(m / (m + size)) - size * mp.log1p(m / size)

    return {
        "poisson": poisson,
        "nb": lambda x, a, t: nb(x, a, mp.exp(a - t)),
        "nb_size": lambda x, a, s: nb(x, a, mp.exp(s)),
    }[name]


def inflated(base):
    def log_prob(x, *parameters):
        *parameters, logit = parameters
        z = 1 / (1 + mp.exp(-logit))
        kept = 1 / (1 + mp.exp(logit))
        if x == 0:
            return mp.log(z + kept * mp.exp(base(x, *parameters)))
        return mp.log(kept) + base(x, *parameters)

    return log_prob


def build(name, parameters):
    name, _, zero = name.partition("+")
    *base, logit = parameters if zero else (*parameters, None)
    if name == "nb_size":
        likelihood = NegativeBinomial(base[0], log_size=base[1])
    else:
        likelihood = (Poisson if name == "poisson" else NegativeBinomial)(*base)
    return ZeroInflated(likelihood, logit) if zero else likelihood


AXES = {"poisson": (LOG_RATES,), "nb": (LOG_RATES, LOG_ODDS), "nb_size": (LOG_RATES, LOG_SIZES)}
NAMES = [*AXES, *(f"{name}+zeros" for name in AXES)]


def grid(name):
    name, _, zero = name.partition("+")
    axes = (COUNTS, *AXES[name], *([LOGITS] if zero else []))
    return torch.tensor(list(itertools.product(*axes)), dtype=torch.float32).T  # (1 + parameters, points)


def near(got, want, relative, absolute):
    return abs(got - float(want)) <= relative * abs(float(want)) + absolute


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_against_mpmath(name):
    x, *parameters = grid(name)
    parameters = [parameter.clone().requires_grad_() for parameter in parameters]
    value = build(name, parameters).log_prob(x)
    gradients = torch.autograd.grad(value.sum(), parameters)
    base = plain(name.partition("+")[0])
    formula = inflated(base) if "+" in name else base
    wrong = []
    for i in range(len(x)):
        count = mp.mpf(x[i].item())
        point = [mp.mpf(parameter[i].item()) for parameter in parameters]
        plain_point = point[:-1] if "+" in name else point
        f0 = abs(float(base(0, *plain_point)))
        mean = float(mp.exp(point[0]))
        if not near(value[i].item(), formula(count, *point), 1e-6 if count else 1e-5, 1e-37):
            wrong.append(("value", x[i].item(), point, value[i].item(), float(formula(count, *point))))
        relative = 1e-6 if count else 1e-5 * (1 + (f0 if "+" in name else 0))
        # the derivative by the dispersion is a small difference of terms like x - m: float64 leaves the second summand,
        # Stirling's series the first
        absolute = 3e-12 + 1e-14 * (float(count) + mean) if count else 1e-30
        for j, gradient in enumerate(gradients):
            h = mp.mpf(10) ** -20
            up, down = list(point), list(point)
            up[j] += h
            down[j] -= h
            slope = (formula(count, *up) - formula(count, *down)) / (2 * h)
            if not near(gradient[i].item(), slope, relative, absolute):
                wrong.append((f"d{j}", x[i].item(), point, gradient[i].item(), float(slope)))
    assert wrong == []


@pytest.mark.parametrize("name", NAMES)
def test_extremes_are_finite(name):
    """Everything that a network may ask for, in one batch: values and gradients, also beyond the clamps."""
    name, _, zero = name.partition("+")
    second = [] if name == "poisson" else [(-300.0, -20.0, -12.0, 0.0, 12.0, 20.0, 300.0)]
    logits = [(-300.0, -60.0, 0.0, 60.0, 300.0)] if zero else []
    axes = ((0.0, 1.0, 1e5, 1e6), (-300.0, -60.0, -1.0, 0.0, 14.0), *second, *logits)
    x, *parameters = torch.tensor(list(itertools.product(*axes))).T
    parameters = [parameter.clone().requires_grad_() for parameter in parameters]
    likelihood = build(name + "+" * bool(zero) + zero, parameters)
    value = likelihood.log_prob(x)
    assert torch.isfinite(value).all()
    assert (value <= 0).all()
    for gradient in torch.autograd.grad(value.sum(), parameters):
        assert torch.isfinite(gradient).all()
    assert torch.isfinite(likelihood.mean).all()
    assert torch.isfinite(likelihood.variance).all()


@pytest.mark.parametrize("size", [0.03, 1.7, 240.0])
@pytest.mark.parametrize("rate", [1e-3, 0.8, 35.0, 2e4])
def test_against_scipy(rate, size):
    x = np.array([0, 1, 3, 40, 20_000])
    a, s = torch.tensor(rate, dtype=torch.float64).log(), torch.tensor(size, dtype=torch.float64).log()
    poisson, nb = scipy.stats.poisson(rate), scipy.stats.nbinom(size, size / (size + rate))
    X = torch.tensor(x, dtype=torch.float64)
    np.testing.assert_allclose(Poisson(a).log_prob(X), poisson.logpmf(x), rtol=1e-10)
    likelihoods = [NegativeBinomial(a, log_size=s), *([NegativeBinomial(a, a - s)] if abs(a - s) < 12 else [])]
    for likelihood in likelihoods:
        np.testing.assert_allclose(likelihood.log_prob(X), nb.logpmf(x), rtol=1e-10)
        assert likelihood.mean.item() == pytest.approx(nb.mean())
        assert likelihood.variance.item() == pytest.approx(nb.var())
        assert likelihood.log_zero.item() == pytest.approx(nb.logpmf(0))


EXAMPLES = {
    "poisson": lambda: Poisson(torch.tensor([-2.0, 1.3])),
    "nb": lambda: NegativeBinomial(torch.tensor([-2.0, 1.3]), torch.tensor([0.7, -0.4])),
    "zip": lambda: ZeroInflated(Poisson(torch.tensor([-2.0, 1.3])), torch.tensor([-0.8, 0.6])),
    "zinb": lambda: ZeroInflated(
        NegativeBinomial(torch.tensor([-2.0, 1.3]), torch.tensor([0.7, -0.4])), torch.tensor([-0.8, 0.6])
    ),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_probabilities_sum_to_one_and_give_the_moments(example):
    likelihood = EXAMPLES[example]()
    x = torch.arange(400.0)[:, None]  # (400, 1) against (2,)
    p = likelihood.log_prob(x).double().exp()
    torch.testing.assert_close(p.sum(0), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
    mean = (p * x).sum(0)
    torch.testing.assert_close(mean.float(), likelihood.mean, rtol=1e-5, atol=0)
    torch.testing.assert_close((p * (x - mean) ** 2).sum(0).float(), likelihood.variance, rtol=1e-5, atol=0)


def test_poisson_limit():
    a = torch.linspace(-60, 6, 23)[:, None]
    x = torch.tensor([0.0, 1.0, 5.0, 300.0])
    a, x = torch.broadcast_tensors(a, x)
    poisson = Poisson(a).log_prob(x)
    low = NegativeBinomial(a, torch.tensor(-12.0)).log_prob(x)
    # the two differ by odds ((x - m)^2 - x) / (2 m) in the first order
    m = a.double().exp()
    expected = np.exp(-12) * ((x - m) ** 2 - x) / (2 * m)
    close = expected.abs() < 0.01
    assert close.sum() > 30
    torch.testing.assert_close(low[close], (poisson + expected)[close].float(), rtol=2e-6, atol=1e-4)
    torch.testing.assert_close(low[x == 0], poisson[x == 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(NegativeBinomial(a, torch.tensor(-40.0)).log_prob(x), low, rtol=0, atol=0)


def test_a_log_odds_beyond_the_clamp_can_come_back():
    """Variance asked for: much less than at theta = 12. The gradient has to say so from outside too."""
    a, theta = torch.tensor([1.0]), torch.tensor([15.0], requires_grad=True)
    NegativeBinomial(a, theta).log_prob(torch.tensor([3.0])).sum().backward()
    inside = torch.tensor([12.0], requires_grad=True)
    NegativeBinomial(a, inside).log_prob(torch.tensor([3.0])).sum().backward()
    assert theta.grad.item() == inside.grad.item() < 0


@pytest.mark.parametrize("base", [Poisson(torch.tensor([-3.0, 2.0])), EXAMPLES["nb"]()], ids=["poisson", "nb"])
def test_limits_of_zero_inflation(base):
    x = torch.tensor([[0.0], [2.0]])
    never, always = ZeroInflated(base, torch.tensor(-60.0)), ZeroInflated(base, torch.tensor(60.0))
    torch.testing.assert_close(never.log_prob(x), base.log_prob(x), rtol=1e-6, atol=0)
    torch.testing.assert_close(never.mean, base.mean)
    torch.testing.assert_close(always.rate, base.mean)
    torch.testing.assert_close(always.log_prob(x[1]), base.log_prob(x[1]) - 60, rtol=1e-6, atol=0)
    # log(1 - e^-60 (1 - exp f0))
    small = np.exp(-60) * torch.expm1(base.log_zero.double())
    torch.testing.assert_close(always.log_prob(x[0]), small.float(), rtol=1e-5, atol=0)


def test_dropout_probability_is_bayes():
    base = NegativeBinomial(torch.tensor([-4.0, 0.5, 3.0]), torch.tensor(0.4))
    logit = torch.tensor([-1.5, 0.3, 2.0])
    z, p0 = torch.sigmoid(logit), base.log_zero.exp()
    got = ZeroInflated(base, logit).dropout_probability
    torch.testing.assert_close(got, z / (z + (1 - z) * p0))
    deep = ZeroInflated(Poisson(torch.tensor([14.0])), torch.tensor([-60.0]))
    assert deep.dropout_probability.item() == 1  # z underflows against 1, but nothing else explains this zero


def batch(B, G, seed):
    """Parameters of a (B, G) batch from low to very high rates, and counts near them."""
    rng = np.random.default_rng(seed)
    a = rng.normal(-2, 3, (B, G))
    a[:, 0] = 13
    theta, logit = rng.normal(0, 3, (B, G)), rng.normal(-1, 3, (B, G))
    x = rng.poisson(np.exp(a) * rng.gamma(2, 0.5, (B, G)))
    tensors = [torch.tensor(each, dtype=torch.float32) for each in (x, a, theta, logit)]
    return [tensors[0], *(each.requires_grad_() for each in tensors[1:])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(37, 11), (3, 40_000)], ids=["one block", "blocks"])
def test_sparse_agrees_with_dense(name, shape):
    x, a, second, logit = batch(*shape, seed=1)
    parameters = [a, *([second] if "nb" in name else []), *([logit] if "+" in name else [])]
    rows, columns = x.nonzero(as_tuple=True)
    weight = torch.linspace(-1, 2, len(x))
    dense = build(name, parameters).log_prob(x).sum(-1)
    expected = torch.autograd.grad(dense @ weight, parameters)
    sparse = build(name, parameters).log_prob_rows(rows, columns, x[rows, columns])
    torch.testing.assert_close(sparse, dense, rtol=1e-6, atol=0)
    for got, want in zip(torch.autograd.grad(sparse @ weight, parameters), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


def test_dispersion_per_gene_gets_the_gradient_of_all_cells():
    x, a, _, _ = batch(19, 7, seed=2)
    size = torch.linspace(-2, 3, 7).requires_grad_()
    rows, columns = x.nonzero(as_tuple=True)
    NegativeBinomial(a, log_size=size).log_prob_rows(rows, columns, x[rows, columns]).sum().backward()
    whole = size.detach().expand(19, 7).clone().requires_grad_()
    NegativeBinomial(a.detach(), log_size=whole).log_prob(x).sum().backward()
    torch.testing.assert_close(size.grad, whole.grad.sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_memory_layout_does_not_matter(name):
    x, *parameters = (each.detach() for each in batch(13, 5, seed=3))
    parameters = [parameters[0], *parameters[1:2] * ("nb" in name), *parameters[2:] * ("+" in name)]
    rows, columns = x.nonzero(as_tuple=True)
    counts = rows, columns, x[rows, columns]
    by_column = [parameter.T.contiguous().T for parameter in parameters]
    torch.testing.assert_close(
        build(name, by_column).log_prob_rows(*counts), build(name, parameters).log_prob_rows(*counts)
    )


def test_stored_zeros_are_zeros():
    likelihood = ZeroInflated(Poisson(torch.tensor([[0.2, 1.0, -3.0], [0.1, 0.5, 2.0]])), torch.tensor(-0.5))
    rows, columns = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    dense = torch.tensor([[3.0, 0, 0], [0, 4.0, 0]])
    got = likelihood.log_prob_rows(rows, columns, torch.tensor([3.0, 0.0, 4.0]))
    torch.testing.assert_close(got, likelihood.log_prob(dense).sum(-1))


def test_empty_cells_are_allowed():
    none = torch.zeros(0, dtype=torch.int64)
    got = Poisson(torch.zeros(4, 3)).log_prob_rows(none, none, torch.zeros(0))
    torch.testing.assert_close(got, torch.full((4,), -3.0))


def test_input_errors():
    poisson = Poisson(torch.zeros(2, 2))
    with pytest.raises(InputError, check=has_code("rows-not-sorted")):
        poisson.log_prob_rows(torch.tensor([1, 0]), torch.tensor([0, 0]), torch.ones(2))
    for both in ({}, {"log_odds": torch.zeros(2), "log_size": torch.zeros(2)}):
        with pytest.raises(InputError, check=has_code("dispersion-arguments")):
            NegativeBinomial(torch.zeros(2), **both)


def test_validation_is_off_unless_asked():
    torch.testing.assert_close(Poisson(torch.zeros(2)).log_prob(torch.tensor(0.5)).exp(), torch.full((2,), 0.4151075))
    with pytest.raises(ValueError, match="support"):
        Poisson(torch.zeros(2), validate_args=True).log_prob(torch.tensor([0.5, 1.0]))
