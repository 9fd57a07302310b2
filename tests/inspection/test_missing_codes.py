"""Numbers that stand for a missing value, and values that only look like it."""

from __future__ import annotations

import numpy as np
import pytest

from imputome.inspection.missing_codes import missing_code

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.gamma(0.5, 20, (40, 30))).astype(float)
TABLES = {
    "beta": RNG.beta(0.5, 0.5, (40, 30)),
    "counts": COUNTS,
    "intensities": 2 ** RNG.normal(20, 2, (40, 30)),
    "log intensities": RNG.normal(9, 1.2, (40, 30)),
    "log1p": np.log1p(COUNTS),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("code", [-1.0, -9.0, -99.0, -999.0, -9999.0, 999999999999.0])
def test_a_code_is_found_with_its_number(name, code):
    X = TABLES[name].copy()
    X.ravel()[RNG.choice(X.size, 25, replace=False)] = code
    assert missing_code([X]) == {code: 25}
    assert missing_code([X[:7], X[7:]]) == {code: 25}  # in pieces
    assert missing_code([np.where(X == 0, np.nan, X)], zeros=bool((X == 0).any())) == {code: 25}


def test_two_codes_and_a_large_one():
    X = TABLES["beta"].copy()
    X[0, :5], X[1, :3], X[2, :4] = -9, -1, 999
    assert missing_code([X]) == {-9.0: 5, -1.0: 3, 999.0: 4}
    X[0, :4], X[2, :4] = 0.5, 0.5
    assert missing_code([X]) == {-9.0: 1, -1.0: 3}


def test_a_number_of_other_digits_far_below():
    X = 2 ** RNG.normal(4, 1, (40, 30))
    X[:2, 0] = -32768
    assert missing_code([X]) == {-32768.0: 2}


@pytest.mark.parametrize(
    "X",
    [
        *TABLES.values(),
        np.log2(COUNTS + 0.5),  # the log of what was added to zeros is -1
        np.log10(COUNTS + 0.1),
        RNG.normal(size=(40, 30)),
        RNG.integers(-1, 2, (40, 30)),  # losses and gains
        RNG.integers(-3, 4, (40, 30)),
        np.array([-99.0, -60, 3]),
        np.array([-1.0, 0.4, 0.9]),  # once may be a mistake, twice is a habit
        np.array([9999.0, 9999, 9999, 4000]),
        np.array([999.0, 1, 2]),
        np.full(5, -999.0),
        np.full(5, np.nan),
        np.empty(0),
    ],
    ids=range(len(TABLES) + 12),
)
def test_no_false_alarm(X):
    assert missing_code([X]) == {}


def test_a_code_below_a_few_negative_logs():
    X = np.maximum(RNG.normal(8, 3, (40, 30)), -1.6)
    X[0, :2] = -1.7, -4.2
    X[RNG.random(X.shape) < 0.05] = -9
    assert missing_code([X]) == {-9.0: int((X == -9).sum())}
    X[X == -9] = 5
    X[0, :2] = -9  # twice may be by chance
    assert missing_code([X]) == {}
    X[0, :20], X[1, 1] = -9, -7.5  # not far from the next value, as where values are limited
    assert missing_code([X]) == {}
