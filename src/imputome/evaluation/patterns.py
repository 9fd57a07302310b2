"""Which known values to hide so that the holes are like those that the data have: masks of booleans in, masks out.

A value that is hidden at random keeps its neighbours: the same feature in samples of the same group, and related
features in the same sample. Where whole blocks are missing, the missing values have no such neighbours, so they are
harder to impute, and a test on values hidden at random is too good.

``known`` (n, G) is True where there is a value. Letters: ``n`` samples, ``G`` features, ``D`` donors.
"""

from __future__ import annotations

import numpy as np

from imputome.inspection.missingness import COLUMNS_PER_PIECE, shared_columns

MAX_DONORS = 200  # samples, or features, whose holes are repeated
MOST_HIDDEN = 0.2  # of the samples from which a feature can be learned, and of the features that a sample is known by
# A donor's known values that the recipient must keep, as a share. A sample that keeps less is no sample like the donor:
# on two arrays that share 30 % of the probes, 36 % were explained by hiding samples, and 28 % of the missing values;
# 20 % by hiding features. On a panel of the features that are related most, 20, 21 and 71 %.
MIN_LEFT_OF_SAMPLE, MIN_LEFT_OF_FEATURE = 0.8, 0.5


def repeated_holes(
    known: np.ndarray, number: float, rng: np.random.Generator, *, recipients: np.ndarray | None = None
) -> np.ndarray:
    """Repeat the holes of some rows in other rows; True in the result, (n, G), where a value is to be hidden.

    A recipient is a row that has values where a donor, another row drawn at random, has none. All of these are hidden,
    and nothing else, so that the recipient is known by no feature that the donor lacks, and it must be known by most
    (`MIN_LEFT_OF_SAMPLE`) of those that the donor has: the holes of a panel can be repeated in samples with all
    features, those of two arrays with probes of their own cannot. Recipients are drawn (from all rows, or from the
    positions ``recipients``) until ``number`` values are hidden. No column loses more than `MOST_HIDDEN` of the values
    that it has in rows that could be recipients, or one.
    """
    return _repeated(known, number, rng, recipients, MIN_LEFT_OF_SAMPLE)


def repeated_gaps(known: np.ndarray, number: float, rng: np.random.Generator) -> np.ndarray:
    """Repeat the holes of some columns in other columns, as `repeated_holes` does for rows.

    A feature that a whole group of samples has is hidden in the whole group, as other features are missing there: it
    must be learned from the other groups, and the difference between groups is part of the error. A column keeps
    `MIN_LEFT_OF_FEATURE` of the donor's known values, or more.
    """
    return _repeated(np.ascontiguousarray(known.T), number, rng, None, MIN_LEFT_OF_FEATURE).T


def _repeated(
    known: np.ndarray, number: float, rng: np.random.Generator, recipients: np.ndarray | None, left: float
) -> np.ndarray:
    hidden = np.zeros(known.shape, dtype=bool)
    size = known.sum(axis=1)
    donors = np.flatnonzero((size > 0) & (size < known.shape[1]))
    if len(donors) == 0:
        return hidden
    donors = rng.permutation(donors)[:MAX_DONORS]
    shared = shared_columns(known, known[donors])  # (n, D)
    fits = (shared < size[:, None]) & (shared >= np.maximum(1, left * size[donors]))
    able = fits.any(axis=1)
    room = np.maximum(1, MOST_HIDDEN * (known & able[:, None]).sum(axis=0)).astype(np.int64)
    done = 0
    for row in rng.permutation(np.flatnonzero(able) if recipients is None else recipients[able[recipients]]):
        if done >= number:
            break
        places = known[row] & ~known[donors[rng.choice(np.flatnonzero(fits[row]))]]
        if (room[places] > 0).all():
            hidden[row] = places
            room[places] -= 1
            done += int(places.sum())
    return hidden


def at_rates(
    known: np.ndarray,
    number: float,
    rng: np.random.Generator,
    *,
    rows: np.ndarray | None = None,
    lowness: np.ndarray | None = None,
) -> np.ndarray:
    """Hide ``number`` known values at the rates of the holes: most in rows and columns in which most is missing.

    A known value in ``rows`` (positions; None: all) is drawn with a weight: the product of the shares missing of its
    row and of its column, times the exponential of ``lowness`` (n, G) if that is given. A column without a missing
    value loses none, and no column loses more than half of its known values.
    """
    n, G = known.shape
    by_row = np.full(n, -np.inf)
    rows = np.arange(n) if rows is None else rows
    by_row[rows] = np.log(((~known[rows]).sum(axis=1) + 1) / (G + 1))
    with np.errstate(divide="ignore"):
        by_column = np.log((~known).sum(axis=0) / n)
    key = np.empty(known.shape, dtype=np.float32)  # the largest of these are drawn
    for start in range(0, G, COLUMNS_PER_PIECE):
        part = np.s_[:, start : start + COLUMNS_PER_PIECE]
        drawn = rng.gumbel(size=known[part].shape) + by_row[:, None] + by_column[part[1]]
        if lowness is not None:
            drawn += lowness[part]
        drawn[~known[part]] = -np.inf
        place = np.argsort(np.argsort(-drawn, axis=0), axis=0)
        key[part] = np.where(place < known[part].sum(axis=0) // 2, drawn, -np.inf)
    size = min(round(number), int(np.isfinite(key).sum()))
    hidden = np.zeros(known.size, dtype=bool)
    if size:
        hidden[np.argpartition(-key.ravel(), size - 1)[:size]] = True
    return hidden.reshape(known.shape)
