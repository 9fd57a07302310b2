"""Links: exact inverses, slopes by finite differences, and results in the unit of the input."""

import math

import numpy as np
import pytest

from codes import has_code
from imputome import methods
from imputome.core.data import as_data
from imputome.core.links import LINKS, link
from imputome.errors import InputError

VALUES = {
    "identity": np.linspace(-5, 5, 41),
    "asinh": np.concatenate([-np.logspace(4, -3, 20), [0], np.logspace(-3, 4, 20)]),
    "clip": np.linspace(-9.9, 9.9, 41),
    "logit": np.linspace(0, 1, 41),
    "neglog": np.linspace(0, 1, 41),
}


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inverse_and_slope(name, dtype):
    x = VALUES[name].astype(dtype)
    known = LINKS[name]
    t = known.forward(x)
    assert t.dtype == known.inverse(t).dtype == known.slope(t).dtype == dtype
    np.testing.assert_allclose(known.inverse(t), x, rtol=2e-5 if dtype == np.float32 else 1e-12, atol=1e-6)
    assert (np.diff(t) > 0).all() if known.increasing else (np.diff(t) < 0).all()
    wide, step = t.astype(np.float64), 1e-6
    inside = slice(1, -1)  # the logit's inverse is cut at its ends
    slope = (known.inverse(wide + step) - known.inverse(wide - step)) / (2 * step)
    np.testing.assert_allclose(known.slope(wide)[inside], slope[inside], rtol=1e-4, atol=1e-8)
    assert np.isnan(known.forward(np.array([np.nan], dtype))).all()


def test_extreme_values_do_not_overflow():
    far = np.array([-1e30, 1e30], np.float32)
    for known in LINKS.values():
        assert np.isfinite(known.inverse(far)).all()


def test_m_values_are_logits_to_base_two():
    beta = np.array([0.2, 0.5, 0.9])
    expected = np.log2((beta + 0.001) / (1.001 - beta))
    np.testing.assert_allclose(link("logit").forward(beta), expected, rtol=1e-12, atol=1e-15)


def test_negative_logarithms_put_the_smallest_values_at_the_high_end():
    beta = np.array([0.0, 0.2, 1.0, np.nan])
    expected = [-math.log(0.001), -math.log(0.201), -math.log(1.001), math.nan]
    np.testing.assert_allclose(link("neglog").forward(beta), expected, rtol=1e-12)
    assert [known.name for known in LINKS.values() if not known.increasing] == ["neglog"]
    assert link("neglog").inverse(np.array([-5.0, 50.0])).tolist() == [1, 0]  # never outside of beta values
    with pytest.raises(InputError, check=has_code("not-beta-values")):
        link("neglog").forward(np.array([0.5, -0.1]))


def test_methods_impute_beta_values_on_negative_logarithms(tmp_path):
    """The mean on this scale is a geometric one, of values raised by the offset."""
    rng = np.random.default_rng(0)
    X = rng.beta(0.3, 2, size=(40, 5))
    X[rng.random(X.shape) < 0.2] = np.nan
    estimator = methods.get("mean")()
    estimator.link = "neglog"
    result = estimator.fit_transform(as_data(X, kind="real"))
    geometric = np.exp(np.nanmean(np.log(X + 0.001), axis=0)) - 0.001
    np.testing.assert_allclose(result.to_array(keep_observed=False)[0], geometric, rtol=1e-9)
    estimator.save(tmp_path / "model")
    assert methods.load(tmp_path / "model").link == "neglog"


def test_errors():
    with pytest.raises(InputError, check=has_code("not-beta-values")):
        link("logit").forward(np.array([0.5, 1.2]))
    with pytest.raises(InputError, check=has_code("unknown-transform")):
        link("sqrt")


def test_a_linked_method_returns_the_unit_of_the_input(tmp_path):
    """The mean on the asinh scale is the sinh of the mean of arcsinh values; observed values do not change."""
    rng = np.random.default_rng(0)
    X = np.sinh(rng.normal(size=(30, 6)) * 3)
    X[rng.random(X.shape) < 0.2] = np.nan
    estimator = methods.get("mean")()
    estimator.link = "asinh"
    result = estimator.fit_transform(as_data(X, kind="real"))
    known = ~np.isnan(X)
    centre = np.sinh(np.nanmean(np.arcsinh(X), axis=0))
    np.testing.assert_array_equal(result.to_array()[known], X[known])
    np.testing.assert_allclose(result.to_array(keep_observed=False), np.broadcast_to(centre, X.shape), rtol=1e-12)
    estimator.save(tmp_path / "model")
    loaded = methods.load(tmp_path / "model")
    assert loaded.link == "asinh"
    np.testing.assert_allclose(loaded.transform(X[:3]).to_array(), result.to_array()[:3], rtol=1e-12)


def test_counts_have_no_link():
    estimator = methods.get("gene_mean")()
    estimator.link = "asinh"
    with pytest.raises(InputError, check=has_code("transform-needs-real")):
        estimator.fit_transform(np.array([[1, 2], [3, 4]]))


class _TwoByTwo:
    outputs = frozenset({"value", "variance"})

    def rows(self, rows, genes, output):
        t = np.array([[0.5, -1.0], [2.0, 0.0]])[rows]
        return t if output == "value" else np.full_like(t, 1e-6)

    def draw(self, rows, number):
        return self.rows(rows, None, "value") + number


def test_variance_and_draws_on_a_link():
    from imputome.core.imputation import Imputation, LinkedModel

    X = np.array([[1.0, np.nan], [np.nan, 2.0]])
    model = LinkedModel(_TwoByTwo(), link("asinh"))
    result = Imputation(model, as_data(X, kind="real"), scale="input", keeps_observed=True)
    draws = np.random.default_rng(1).normal(size=200_000)
    spread = np.sinh(0.5 + 1e-3 * draws).var()  # of a normal with that variance, taken back
    assert result.rows(0, output="variance")[0, 0] == pytest.approx(spread, rel=0.02)
    drawn = result.draw(1)
    assert drawn[0, 0] == 1.0  # observed
    assert drawn[0, 1] == pytest.approx(np.sinh(0.0))
    with pytest.raises(InputError, check=has_code("no-draws")):
        Imputation(_NoDraws(), as_data(X, kind="real"), scale="input", keeps_observed=True).draw(0)


class _NoDraws:
    outputs = frozenset({"value"})
