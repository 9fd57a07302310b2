"""Hiding real values: entries set to NaN in the test rows, which the fitted method then completes.

Each scheme takes data and a generator and returns a `Split` whose ``train`` is the training rows and whose ``apply``
is the test rows with NaN where values were hidden. Options they share:

``rows`` : ``"test"``, or ``"all"`` for no row split (values are hidden in all rows, and ``apply`` is None).
``test`` : share of the rows that are test rows.
``labels`` : (n,) labels that stratify the row split.

Only known values (observed and not NaN) are ever hidden. ``fraction`` is the share of the values that a scheme aims at,
`Split.fraction` that of all known values of the rows in question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from imputome.errors import InputError
from imputome.evaluation.split import Split, check_share, row_split
from imputome.methods.base import Data
from imputome.preprocessing.holdout import hide_values

Rows = Literal["test", "all"]


def mcar(
    data: Data,
    rng: np.random.Generator,
    *,
    fraction: float = 0.1,
    rows: Rows = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide a share of the known values completely at random."""
    everything = np.broadcast_to(True, data.shape)
    return _hide("mcar", data, rng, lambda _: everything, fraction, rows, test, labels)


def features(
    data: Data,
    rng: np.random.Generator,
    *,
    fraction: float = 0.05,
    rows: Rows = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide whole features: all values that ``round(fraction * G)`` features have in the test rows.

    A feature hidden in every row could not be learned, so ``rows="all"`` hides it in the test rows as well, which then
    stay among the training rows.
    """
    check_share("fraction", fraction)
    G = data.shape[1]
    number = round(fraction * G)
    if not 0 < number < G:
        raise InputError(f"features would hide {number} of {G} features: choose another fraction")

    def aim(test_rows: np.ndarray) -> np.ndarray:
        chosen = np.zeros(data.shape, dtype=bool)
        chosen[np.ix_(test_rows, rng.choice(G, size=number, replace=False))] = True
        return chosen

    return _hide("features", data, rng, aim, 1.0, rows, test, labels)


def high_gc(
    data: Data,
    rng: np.random.Generator,
    *,
    gc: Any = None,
    fraction: float = 0.5,
    top: float = 0.1,
    rows: Rows = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide a share of the values of the genes with the highest GC content, whose coverage sequencing distorts.

    Parameters
    ----------
    gc : mapping or Series, GC content by gene name, in any unit; genes without one are left alone.
    top : share, of the genes with a GC content, that counts as high.
    """
    check_share("top", top)
    if gc is None:
        raise InputError("high_gc needs the GC content of the genes: pass gc={gene: content, ...}")
    table = dict(gc.items())
    content = np.array([table.get(name, np.nan) for name in data.var_names], dtype=np.float64)
    known = np.flatnonzero(~np.isnan(content))
    if len(known) == 0:
        raise InputError(f"no gene has a GC content: does the table use the names of the data ({data.var_names[0]!r})?")
    highest = known[np.argsort(-content[known], kind="stable")[: max(1, round(top * len(known)))]]

    def aim(_: np.ndarray) -> np.ndarray:
        chosen = np.zeros(data.shape, dtype=bool)
        chosen[:, highest] = True
        return chosen

    return _hide("high_gc", data, rng, aim, fraction, rows, test, labels)


def low_values(
    data: Data,
    rng: np.random.Generator,
    *,
    fraction: float = 0.5,
    quantile: float = 0.1,
    rows: Rows = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide a share of the lowest values: those under one quantile of the whole matrix, z-scored feature by feature.

    As published (Qiu et al. 2020): mean and standard deviation (divisor: number of known values) of each feature, and
    the quantile, are of all rows; a feature that does not vary has z = 0.
    """
    check_share("quantile", quantile)

    def aim(_: np.ndarray) -> np.ndarray:
        z = np.where(_known(data), data.X, np.nan).astype(np.float64)
        count = np.maximum((~np.isnan(z)).sum(axis=0), 1)
        z -= np.nansum(z, axis=0) / count
        spread = np.sqrt(np.nansum(z * z, axis=0) / count)
        z /= np.where(spread > 0, spread, 1.0)
        return z < np.nanquantile(z, quantile)

    return _hide("low_values", data, rng, aim, fraction, rows, test, labels)


def low_coverage(
    data: Data,
    rng: np.random.Generator,
    *,
    coverage: Any = None,
    fraction: float = 0.5,
    reads: float = 6,
    rows: Rows = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide a share of the values that rest on fewer than ``reads`` reads (methylation sequencing).

    The data must still hold these values: read them without a coverage rule, or there is no truth to compare with.

    Parameters
    ----------
    coverage : (n, G) number of reads under each value; NaN means unknown, and such a value is left alone.
    """
    import scipy.sparse as sp

    if coverage is None:
        raise InputError("low_coverage needs the reads under each value: pass coverage=, a matrix like the data")
    if sp.issparse(coverage):
        coverage = coverage.toarray()
    depth = np.asarray(coverage)
    if depth.shape != data.shape:
        raise InputError(f"coverage has shape {depth.shape}, the data {data.shape}: they must be the same")
    return _hide("low_coverage", data, rng, lambda _: depth < reads, fraction, rows, test, labels)


def _hide(
    scheme: str,
    data: Data,
    rng: np.random.Generator,
    aim: Callable[[np.ndarray], np.ndarray],
    fraction: float,
    rows: Rows,
    test: float,
    labels: Any,
) -> Split:
    """Hide ``fraction`` of the known values that ``aim(test rows)``, a mask of shape (n, G), points at."""
    if data.kind != "real":
        raise InputError(f"{scheme} hides real values, and these data are counts: choose random, thin or another")
    if rows not in ("test", "all"):
        raise InputError(f'rows={rows!r} are no rows to hide values in: choose "test" or "all"')
    check_share("fraction", fraction, one=scheme == "features")
    everywhere = np.arange(data.shape[0])
    train_rows, test_rows = everywhere, everywhere
    if rows == "test" or scheme == "features":
        train_rows, test_rows = row_split(data.shape[0], rng, test=test, labels=labels)
    elif labels is not None:
        raise InputError(f'labels stratify the test rows, and {scheme} with rows="all" has none: leave them out')
    where = test_rows if rows == "test" else everywhere
    target = data if rows == "all" else data.subset(rows=where)
    known = _known(target)
    X, i, j, truth = hide_values(target.X, fraction, rng, among=aim(test_rows)[where] & known)
    if len(i) == 0:
        raise InputError(f"{scheme} found no value to hide among {known.sum():,}: raise the fraction or the threshold")
    observed = target.observed
    if observed is not None:
        observed = np.array(observed, dtype=bool)
        observed[i, j] = False
    masked = replace(target, X=X, observed=observed)
    return Split(
        scheme=scheme,
        train=masked if rows == "all" else data.subset(rows=train_rows),
        apply=None if rows == "all" else masked,
        i=i,
        j=j,
        truth=truth,
        fraction=len(i) / known.sum(),
    )


def _known(data: Data) -> np.ndarray:
    known = ~np.isnan(data.X)
    return known if data.observed is None else known & np.asarray(data.observed, dtype=bool)
