"""Scores of an `Imputation` against a `Split`, a block of rows at a time: no n x G matrix is ever dense.

Letters: ``x`` held-out truth, ``mu`` predicted mean at the truth's depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.data import Data
from imputome.core.scales import counts_to_scale
from imputome.errors import InputError
from imputome.evaluation.metrics import EDGES, METRICS, covered, worst_coverage

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp

    from imputome.core.imputation import Imputation
    from imputome.evaluation.splits import Split

BLOCK = 2**19  # dense values made at a time: a few float64 copies of them live at once
STRATA = 5  # of predicted real values, in which coverage is looked at
PIECE = 2**20  # hidden entries asked for at a time


def score_thinned(
    imputation: Imputation, split: Split, *, metrics: Sequence[str] | None = None, random_state: int = 0
) -> dict[str, float]:
    """Scores over all entries of the part that thinning split off.

    The rates of the training part, without observed values put back and on scale ``counts``, times ``split.ratio`` are
    the means of ``split.test``. Zeros of the truth cost one term of the prediction alone; the truth stays sparse.

    Parameters
    ----------
    metrics : names in `METRICS` whose entries are ``"all"`` or ``"both"``; None takes every one that the imputation
        allows: ``nll`` and ``coverage_90`` need its variance, the gamma posterior of which makes the held-out counts
        negative binomial of size rate^2 / variance.
    random_state : seed of the randomised transform behind ``coverage_90``.

    Returns
    -------
    Name to score, in the order of ``metrics``. ``mse_log1p`` divides by the expected library of the held-out part,
    training depth times ratio; ``share_of_zeros_raised`` means zeros of the held-out part, at its depth.

    Raises
    ------
    InputError
        The split hides entries; names of cells or genes differ from the training data's; a metric cannot be had.
    """
    if split.test is None:
        raise InputError(f"the split {split.scheme!r} hides entries and has no test matrix: use score_hidden")
    reference = _aligned(imputation, split)
    if split.test.shape != imputation.shape:
        raise InputError(f"the test matrix has shape {split.test.shape}, the imputation {imputation.shape}")
    missing = {}
    if "variance" not in imputation.outputs:
        reason = "the imputation has no variance: use a method with one, as those with posterior=True"
        missing = {"nll": reason, "coverage_90": reason}
    names = _chosen(metrics, "all", missing)
    test, genes = split.test, None
    seen = np.bincount(split.train.X.indices, minlength=imputation.shape[1]) > 0
    if not seen.all():
        genes = np.flatnonzero(seen)
        test = test[:, genes]
    return _stream(imputation, test, split.ratio, names, reference.depth * split.ratio, random_state, genes=genes)


def score_hidden(
    imputation: Imputation,
    split: Split,
    *,
    metrics: Sequence[str] | None = None,
    scale: Literal["counts", "log1p"] = "counts",
) -> dict[str, float]:
    """Scores over the hidden entries, from single entries of the imputation, observed values not put back.

    Parameters
    ----------
    metrics : names in `METRICS` whose entries are ``"hidden"`` or ``"both"``; None takes every one that fits:
        ``total_ratio`` and ``share_of_zeros_raised`` for counts, ``coverage_90`` for real values with intervals.
    scale : of the hidden counts and their predictions. ``"log1p"``: of counts per 10,000, as paper 000 scores, with the
        library size of the training part (that of the whole would tell what is hidden); there is no ``total_ratio``.

    Returns
    -------
    Name to score. ``share_of_zeros_raised`` is not over the hidden entries, but over the zeros of the matrix before any
    were hidden (one pass over all predictions, in blocks): it shows what filling everything would have cost.

    Raises
    ------
    InputError
        The split thins molecules; names of cells or genes differ from the data's; a metric cannot be had.
    """
    if split.i is None or split.j is None or split.truth is None:
        raise InputError(f"the split {split.scheme!r} hides no entries: use score_thinned")
    reference = _aligned(imputation, split)
    missing = {}
    if reference.kind == "real":
        reason = "is for counts, and this split holds real values"
        missing = {"total_ratio": reason, "share_of_zeros_raised": reason}
        if not {"lower", "upper"} <= imputation.outputs:
            missing["coverage_90"] = "the imputation gives no interval: use a method with lower and upper"
    else:
        missing["coverage_90"] = "hidden nonzeros are a selection that no interval allows for: score it under thin"
        if scale != "counts":
            missing["total_ratio"] = "a total of logarithms means nothing: score it on scale counts"
    names = _chosen(metrics, "hidden", missing)
    options: dict[str, Any] = {"keep_observed": False}
    if reference.kind == "counts":
        options["scale"] = scale
    scores = {}
    truth = np.asarray(split.truth, dtype=np.float64)
    if reference.kind == "counts":
        truth = counts_to_scale(truth, reference.depth[split.i], scale)
    prediction = None
    for name in names:
        if name == "share_of_zeros_raised":
            scores[name] = _stream(imputation, _before_hiding(reference, split), 1.0, [name], None, 0)[name]
        elif name == "coverage_90":
            lower, upper = (_at(imputation, split.i, split.j, output=end) for end in ("lower", "upper"))
            scores[name] = METRICS[name].function(truth=truth, lower=lower, upper=upper)
        else:
            if prediction is None:
                prediction = _at(imputation, split.i, split.j, **options)
            scores[name] = METRICS[name].function(truth=truth, prediction=prediction)
    return scores


def calibration(imputation: Imputation, split: Split, *, random_state: int = 0) -> pd.DataFrame:
    """Coverage of 90 % intervals within strata of the predicted mean: ``low``, ``high``, ``entries``, ``coverage``.

    Counts that were thinned: randomised transforms in the strata of `imputome.evaluation.metrics.coverage_by_mean`.
    Hidden real values: share within ``lower`` to ``upper``, in fifths of the predicted values.

    Raises
    ------
    InputError
        Names differ from the split's, or the imputation has no variance (counts) or no interval (real values).
    """
    import pandas as pd

    _aligned(imputation, split)
    if split.test is None:
        if not {"lower", "upper"} <= imputation.outputs:
            raise InputError("the imputation gives no interval: use a method with lower and upper")
        value, lower, upper = (
            _at(imputation, split.i, split.j, output=end, keep_observed=False)  # type: ignore[arg-type]
            for end in ("value", "lower", "upper")
        )
        within = (lower <= split.truth) & (split.truth <= upper)
        bounds = np.quantile(value, np.linspace(0, 1, STRATA + 1)) if len(value) else np.zeros(STRATA + 1)
        stratum = np.digitize(value, bounds[1:-1])
        entries = np.bincount(stratum, minlength=STRATA)
        inside = np.bincount(stratum, weights=within, minlength=STRATA)
    else:
        if "variance" not in imputation.outputs:
            raise InputError("the imputation has no variance: use a method with one, as those with posterior=True")
        seen = np.bincount(split.train.X.indices, minlength=imputation.shape[1]) > 0
        genes = None if seen.all() else np.flatnonzero(seen)
        test = split.test if genes is None else split.test[:, genes]
        rng = np.random.default_rng(random_state)
        sums: Any = 0
        for rows, mu, size in _predictions(imputation, split.ratio, True, genes):
            start, stop = test.indptr[rows.start], test.indptr[rows.stop]
            i = np.repeat(np.arange(rows.stop - rows.start), np.diff(test.indptr[rows.start : rows.stop + 1]))
            at = i * mu.shape[1] + test.indices[start:stop]
            sums = sums + np.array(covered(mu, size, at, test.data[start:stop].astype(np.float64), rng))
        inside, entries = sums
        bounds = np.concatenate([[0.0], EDGES, [np.inf]])
    coverage = np.divide(inside, entries, out=np.full(len(inside), np.nan), where=entries > 0)
    columns = {"low": bounds[:-1], "high": bounds[1:], "entries": entries.astype(np.int64), "coverage": coverage}
    return pd.DataFrame(columns)


def _stream(
    imputation: Imputation,
    truth: sp.csr_array,
    ratio: float,
    names: Sequence[str],
    library: np.ndarray | None,
    random_state: int,
    genes: np.ndarray | None = None,
) -> dict[str, float]:
    """Scores of all entries: per metric, the sum of its terms as if all truth were 0, mended at the nonzeros."""
    additive = {name: (METRICS[name].needs, METRICS[name].terms) for name in names}
    sums = {name: np.zeros(2) for name, (_, terms) in additive.items() if terms is not None}
    strata: Any = 0
    rng = np.random.default_rng(random_state)
    with_size = any("size" in METRICS[name].needs for name in names)
    for rows, mu, size in _predictions(imputation, ratio, with_size, genes):
        start, stop = truth.indptr[rows.start], truth.indptr[rows.stop]
        i = np.repeat(np.arange(rows.stop - rows.start), np.diff(truth.indptr[rows.start : rows.stop + 1]))
        j, x = truth.indices[start:stop], truth.data[start:stop].astype(np.float64)
        there = mu[i, j]
        for name, (needs, terms) in additive.items():
            if terms is None:
                continue
            whole: dict[str, Any] = {}
            single: dict[str, Any] = {}
            if "size" in needs:
                whole["size"], single["size"] = size, size[i, j]
            if "library" in needs and library is not None:
                whole["library"], single["library"] = library[rows, None], library[rows][i]
            sums[name] += _sums(terms(0.0, mu, **whole), mu.shape)
            sums[name] -= _sums(terms(0.0, there, **single), there.shape)
            sums[name] += _sums(terms(x, there, **single), there.shape)
        if "coverage_90" in names:
            at = i * mu.shape[1] + j
            strata = strata + np.array(covered(mu, size, at[x != 0], x[x != 0], rng))
    scores = {name: float(top / bottom) if bottom else float("nan") for name, (top, bottom) in sums.items()}
    if "coverage_90" in names:
        scores["coverage_90"] = worst_coverage(*strata)
    return {name: scores[name] for name in names}


def _predictions(
    imputation: Imputation, ratio: float, with_size: bool, genes: np.ndarray | None
) -> Iterator[tuple[slice, np.ndarray, Any]]:
    """Blocks of rows: predicted means in float64 and, if asked for, the negative binomial's size."""
    chunk = max(1, BLOCK // imputation.shape[1])
    for rows, values in imputation.blocks(chunk, genes=genes, keep_observed=False, scale="counts"):
        rate = values.astype(np.float64)
        if not np.isfinite(rate).all():
            raise InputError("the imputation holds NaN or infinite values, which cannot be scored: check the method")
        size = None
        if with_size:
            variance = imputation.rows(rows, genes=genes, output="variance").astype(np.float64)
            size = np.divide(rate * rate, variance, out=np.full(rate.shape, np.inf), where=variance > 0)
        rate *= ratio
        yield rows, rate, size


def _sums(terms: tuple[Any, Any], shape: tuple[int, ...]) -> np.ndarray:
    return np.array([np.broadcast_to(term, shape).sum(dtype=np.float64) for term in terms])


def _at(imputation: Imputation, i: np.ndarray, j: np.ndarray, **options: Any) -> np.ndarray:
    values = np.empty(len(i))
    for start in range(0, len(i), PIECE):
        part = slice(start, start + PIECE)
        values[part] = imputation.at(i[part], j[part], **options)
    return values


def _before_hiding(reference: Data, split: Split) -> sp.csr_array:
    """The counts with the hidden ones put back, without stored zeros: what is stored was not zero."""
    import scipy.sparse as sp

    hidden = sp.coo_array((np.asarray(split.truth), (split.i, split.j)), shape=reference.shape)
    full = sp.csr_array(reference.X + hidden.tocsr())
    full.eliminate_zeros()
    return full


def _aligned(imputation: Imputation, split: Split) -> Data:
    """The data that the imputation must be of; a prediction in another order of cells or genes is no prediction."""
    reference = split.train if split.apply is None else split.apply
    for what, ours, theirs in (
        ("cells", imputation.obs_names, reference.obs_names),
        ("genes", imputation.var_names, reference.var_names),
    ):
        if len(ours) != len(theirs):
            raise InputError(f"the imputation has {len(ours)} {what}, the split {len(theirs)}: impute the split's data")
        different = np.flatnonzero(np.asarray(ours) != np.asarray(theirs))
        if len(different):
            k = different[0]
            raise InputError(
                f"the imputation's {what} are not the split's (at position {k}: {ours[k]!r}, not {theirs[k]!r}): "
                "impute the split's data, in its order"
            )
    return reference


def _chosen(metrics: Sequence[str] | None, where: str, missing: dict[str, str]) -> list[str]:
    """The names to compute; one that was asked for and cannot be had is an error, never left out in silence."""
    fitting = [name for name, metric in METRICS.items() if metric.entries in (where, "both")]
    if metrics is None:
        return [name for name in fitting if name not in missing]
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"unknown metric {name!r}: choose from {', '.join(METRICS)}")
        if name not in fitting:
            entries = METRICS[name].entries
            raise InputError(f"{name} is scored over {entries} entries, not here: choose from {', '.join(fitting)}")
        if name in missing:
            raise InputError(f"{name} cannot be had: {missing[name]}")
    return list(metrics)
