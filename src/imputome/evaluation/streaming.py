"""Scores of an `Imputation` against a `Split`, a block of rows at a time: no n x G matrix is ever dense.

`score_thinned` takes splits that thinned molecules, `score_hidden` splits that hid entries, `calibration` both.

Letters: ``x`` held-out truth, ``mu`` predicted mean at the depth of the truth, ``n`` cells or samples, ``G`` genes or
features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imputome.core.data import Data
from imputome.core.links import link
from imputome.core.scales import TARGET, counts_to_scale
from imputome.errors import InputError
from imputome.evaluation.arguments import check_finite
from imputome.evaluation.metrics import MEAN_EDGES, METRICS, covered, worst_coverage
from imputome.evaluation.splits import UNMASKED

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp

    from imputome.core.imputation import Imputation
    from imputome.evaluation.splits import Split

VALUES_PER_BLOCK = 2**19  # dense values in memory at a time: a few float64 copies of them exist at once
N_STRATA = 5  # strata of the predicted real value, for coverage
ENTRIES_PER_CALL = 2**20  # hidden entries that the imputation is asked for at a time
MIN_KNOWN_FOR_SD = 3  # known training values that a feature needs for a standard deviation
CONSTANT_RELATIVE_SD = 1e-6  # up to this SD over the mean a feature counts as constant: rounding is no variation

HiddenScale = Literal["counts", "log1p", "median"]  # of scores of hidden counts

IN_UNITS = ("rmse_sd", "crps_sd")  # metrics in the unit of `Units`

NO_VARIANCE = "the imputation has no variance: use a method that has one, such as those with posterior=True"
NO_INTERVAL = "the imputation has no intervals: use a method with the outputs lower and upper"


def score_thinned(
    imputation: Imputation, split: Split, *, metrics: Sequence[str] | None = None, random_state: int = 0
) -> dict[str, float]:
    """Scores over all entries of the part that thinning split off.

    Predicted means of ``split.test`` are the rates of the training part (scale ``counts``, observed values not put
    back) times ``split.ratio``. Genes without a training count are left out. Zeros of the truth need only one term of
    the prediction, and the truth stays sparse. The imputation must be of ``split.train``, with its names in the same
    order.

    ``metrics`` are names in `METRICS` with entries ``"all"`` or ``"both"``; by default all that the imputation allows,
    without those of a public benchmark.
    ``nll`` and ``coverage_90`` need its variance: with a gamma posterior the held-out counts are negative binomial of
    size rate^2 / variance. ``mse_log1p`` divides by the expected library size of the held-out part, training depth
    times ratio. ``share_of_zeros_raised`` refers to the zeros of the held-out part, at its depth.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> from imputome.core.data import as_data
    >>> from imputome.evaluation.splits import make_split
    >>> data = as_data(np.random.default_rng(0).poisson(2.0, (50, 8)), kind="counts")
    >>> split = make_split("thin", data, rng=np.random.default_rng(1))
    >>> imputation = methods.create("gene_mean").fit_transform(split.train)
    >>> scores = score_thinned(imputation, split, metrics=["poisson_deviance", "total_ratio"])
    >>> {name: round(score, 2) for name, score in scores.items()}
    {'poisson_deviance': 0.7, 'total_ratio': 1.14}
    """
    if split.test is None:
        raise InputError(
            f"the split {split.scheme!r} hides entries: use score_hidden", code="split-of-other-kind", parameter="split"
        )
    reference = _aligned(imputation, split)
    if split.test.shape != imputation.shape:
        raise InputError(
            f"split.test has shape {split.test.shape}, the imputation {imputation.shape}: they must be the same",
            code="shape-mismatch",
            parameter="split",
        )
    unavailable = {}
    if "variance" not in imputation.outputs:
        unavailable = {"nll": NO_VARIANCE, "coverage_90": NO_VARIANCE}
    names = _chosen(metrics, "all", unavailable)
    test, genes = _genes_with_counts(split)
    return _stream(imputation, test, split.ratio, names, reference.depth * split.ratio, random_state, genes=genes)


def score_hidden(
    imputation: Imputation,
    split: Split,
    *,
    metrics: Sequence[str] | None = None,
    scale: HiddenScale = "counts",
    link_name: str = "identity",
) -> dict[str, float]:
    """Scores over the hidden entries, from single entries of the imputation; observed values are not put back.

    The imputation must be of ``split.apply``, or of ``split.train`` if that is None, with its names in the same order.
    ``metrics`` are names in `METRICS` with entries ``"hidden"`` or ``"both"``; by default all that fit: ``total_ratio``
    and ``share_of_zeros_raised`` for counts, ``rmse_sd`` and ``crps_sd`` for real values and ``coverage_90`` for those
    with intervals.
    ``nrmse`` is for counts.

    ``rmse_sd`` and ``crps_sd`` are measured in the unit of `Units`: on the transform ``link_name``, in standard
    deviations of the feature over all its known values, hidden or not. They leave out features that are not usable, and
    are NaN if no hidden value is in another. All other scores are in the unit of the data.

    ``scale`` is that of the hidden counts and of their predictions. "log1p" is the log of counts per 10,000, with the
    library size of the training part, because that of all counts would give away what is hidden. It has no
    ``total_ratio``. "median" is counts over these library sizes times their median, the scale of paper 002. For the
    figures of the papers, which used the library size of all counts, make the split with
    `imputome.evaluation.splits.normalized_before`: then "log1p" is the scale of paper 000, "median" that of paper 002.
    The split of the scheme "none" has no hidden entries, and no scores.

    ``share_of_zeros_raised`` does not refer to the hidden entries but to the zeros of the matrix before any were hidden
    (one pass over all predictions, in blocks): what imputing every zero costs.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> from imputome.core.data import as_data
    >>> from imputome.evaluation.splits import make_split
    >>> data = as_data(np.random.default_rng(0).normal(size=(50, 8)), kind="real")
    >>> split = make_split("mcar", data, rng=np.random.default_rng(1), rows="all")
    >>> imputation = methods.create("mean").fit_transform(split.train)
    >>> round(score_hidden(imputation, split, metrics=["rmse"])["rmse"], 2)
    1.0
    """
    if split.scheme == UNMASKED:
        return {}
    if split.i is None or split.j is None or split.truth is None:
        raise InputError(
            f"the split {split.scheme!r} hides no entries: use score_thinned",
            code="split-of-other-kind",
            parameter="split",
        )
    reference = _aligned(imputation, split)
    is_counts = reference.kind == "counts"
    unavailable = {}
    if is_counts:
        unavailable["coverage_90"] = (
            "hidden nonzeros are a selection that no interval accounts for; use the scheme thin"
        )
        unavailable |= dict.fromkeys(IN_UNITS, "it is for real values, and this split holds counts")
        if scale == "log1p":
            unavailable["total_ratio"] = "a total of logarithms has no meaning; score it on the scale counts"
    else:
        reason = "it is for counts, and this split holds real values"
        unavailable = dict.fromkeys(("nrmse", "total_ratio", "share_of_zeros_raised"), reason)
        if not {"lower", "upper"} <= imputation.outputs:
            unavailable["coverage_90"] = NO_INTERVAL
    names = _chosen(metrics, "hidden", unavailable)
    options: dict[str, Any] = {"keep_observed": False}
    truth = np.asarray(split.truth, dtype=np.float64)
    factor = 1.0
    if is_counts:
        options["scale"] = "normalized" if scale == "median" else scale
        truth = counts_to_scale(truth, reference.depth[split.i], options["scale"])
    if is_counts and scale == "median":
        factor = float(np.median(reference.depth[reference.depth > 0])) / TARGET
        truth *= factor
    scores = {}
    prediction = None
    for name in names:
        if name == "share_of_zeros_raised":
            scores[name] = _stream(imputation, _before_hiding(reference, split), 1.0, [name], None, 0)[name]
        elif name == "coverage_90":
            lower, upper = (_at(imputation, split.i, split.j, output=end) for end in ("lower", "upper"))
            scores[name] = METRICS[name].function(truth=truth, lower=lower, upper=upper)
        else:
            if prediction is None:
                prediction = factor * _at(imputation, split.i, split.j, **options)
            if name in IN_UNITS:
                values = {"prediction": prediction}
                if name == "crps_sd" and {"lower", "upper"} <= imputation.outputs:
                    values |= {end: _at(imputation, split.i, split.j, output=end) for end in ("lower", "upper")}
                scores[name] = _in_units(name, values, split, link_name)
                continue
            scores[name] = METRICS[name].function(truth=truth, prediction=prediction)
    return scores


def calibration(imputation: Imputation, split: Split, *, random_state: int = 0) -> pd.DataFrame:
    """Coverage of 90 % intervals within strata of the prediction; imputation and split as for the scores.

    Thinned counts: randomised transforms in the strata of `imputome.evaluation.metrics.coverage_by_mean`. Hidden real
    values: share of values within ``lower`` to ``upper``, in fifths of the predicted values. A row per stratum:
    ``low``, ``high`` (its limits), ``entries`` and ``coverage`` (NaN without entries).
    """
    import pandas as pd

    _aligned(imputation, split)
    if split.test is None:
        if not {"lower", "upper"} <= imputation.outputs:
            raise InputError(NO_INTERVAL, code="no-intervals")
        value, lower, upper = (
            _at(imputation, split.i, split.j, output=end, keep_observed=False)  # type: ignore[arg-type]
            for end in ("value", "lower", "upper")
        )
        within = (lower <= split.truth) & (split.truth <= upper)
        bounds = np.quantile(value, np.linspace(0, 1, N_STRATA + 1)) if len(value) else np.zeros(N_STRATA + 1)
        stratum = np.digitize(value, bounds[1:-1])
        entries = np.bincount(stratum, minlength=N_STRATA)
        inside = np.bincount(stratum, weights=within, minlength=N_STRATA)
    else:
        if "variance" not in imputation.outputs:
            raise InputError(NO_VARIANCE, code="no-intervals")
        test, genes = _genes_with_counts(split)
        rng = np.random.default_rng(random_state)
        sums: Any = 0
        for rows, mu, size in _predictions(imputation, split.ratio, True, genes):
            i, j, x = _nonzeros(test, rows)
            sums = sums + np.array(covered(mu, size, i * mu.shape[1] + j, x, rng))
        inside, entries = sums
        bounds = np.concatenate([[0.0], MEAN_EDGES, [np.inf]])
    coverage = np.divide(inside, entries, out=np.full(len(inside), np.nan), where=entries > 0)
    columns = {"low": bounds[:-1], "high": bounds[1:], "entries": entries.astype(np.int64), "coverage": coverage}
    return pd.DataFrame(columns)


class Units:
    """z-scores of each feature: one unit for all features, in which errors of real values can be summed.

    Values are transformed with the link ``link_name`` first: with heavy-tailed values, a few would decide every sum
    otherwise. A feature with fewer than 3 known training values, or with a standard deviation that is only rounding
    (under 1e-6 of its mean), is not ``usable``: its errors must be left out of sums over features.

    ``hidden`` (features and values of hidden entries) counts for mean and standard deviation too. Take a feature that
    is flat except for a few extreme values, all of them hidden: without this its unit would be tiny, and it would
    decide every sum. All methods are measured in the same unit, and none sees it.

    ``mean`` and ``sd`` (G,) are those of the transformed values (divisor: number of values; sd is 1 for a constant
    feature); ``usable`` (G,) marks features with a meaningful unit.
    """

    def __init__(
        self, train: Data, link_name: str = "identity", hidden: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        self.link = link(link_name)
        X = self.link.forward(train.known_values().astype(np.float64))
        G = X.shape[1]
        known = ~np.isnan(X)
        j, truth = (np.empty(0, np.int64), np.empty(0)) if hidden is None else hidden
        truth = self.link.forward(np.asarray(truth, dtype=np.float64))
        number = np.maximum(known.sum(axis=0) + np.bincount(j, minlength=G), 1)
        total = np.where(known, X, 0).sum(axis=0) + np.bincount(j, truth, G)
        self.mean = total / number
        squares = np.where(known, np.square(X - self.mean), 0).sum(axis=0)
        sd = np.sqrt((squares + np.bincount(j, np.square(truth - self.mean[j]), G)) / number)
        varies = sd > CONSTANT_RELATIVE_SD * np.abs(self.mean)
        self.usable = varies & (known.sum(axis=0) >= MIN_KNOWN_FOR_SD)
        self.sd = np.where(varies, sd, 1.0)

    def of(self, values: np.ndarray, features: Any = slice(None)) -> np.ndarray:
        """Values (n, G) or (m,) of the data as z-scores; ``features`` is the feature of each column, or value."""
        transformed = self.link.forward(np.asarray(values, dtype=np.float64))
        return np.asarray((transformed - self.mean[features]) / self.sd[features])


def _in_units(name: str, values: dict[str, np.ndarray], split: Split, link_name: str) -> float:
    """The metric ``name`` of the predicted hidden entries, see `IN_UNITS`; ``values`` are its arguments."""
    assert split.j is not None and split.truth is not None  # noqa: S101, PT018
    units = Units(split.train, link_name, (split.j, split.truth))
    usable = units.usable[split.j]
    if not usable.any():
        return float("nan")
    j = split.j[usable]
    on_link = {
        argument: units.link.forward(np.asarray(given[usable], dtype=np.float64))
        for argument, given in {"truth": split.truth, **values}.items()
    }
    return METRICS[name].function(**on_link, sd=units.sd[j])


def _stream(
    imputation: Imputation,
    truth: sp.csr_array,
    ratio: float,
    names: Sequence[str],
    library: np.ndarray | None,
    random_state: int,
    genes: np.ndarray | None = None,
) -> dict[str, float]:
    """Scores of all entries: per metric, the sum of its terms as if all truth were 0, corrected at the nonzeros."""
    additive = {name: (METRICS[name].needs, METRICS[name].terms) for name in names}
    sums = {name: np.zeros(2) for name, (_, terms) in additive.items() if terms is not None}
    strata: Any = 0
    rng = np.random.default_rng(random_state)
    with_size = any("size" in METRICS[name].needs for name in names)
    for rows, mu, size in _predictions(imputation, ratio, with_size, genes):
        i, j, x = _nonzeros(truth, rows)
        mu_at_x = mu[i, j]
        for name, (needs, terms) in additive.items():
            if terms is None:
                continue
            whole: dict[str, Any] = {}
            single: dict[str, Any] = {}
            if "size" in needs:
                whole["size"], single["size"] = size, size[i, j]
            if "library" in needs and library is not None:
                whole["library"], single["library"] = library[rows, None], library[rows][i]
            if "prediction_total" in needs:  # in one step: what is left of squares that cancel could be below 0
                dense = np.zeros_like(mu)
                dense[i, j] = x
                totals = {f"{part}_total": m.sum(axis=1)[:, None] for part, m in (("truth", dense), ("prediction", mu))}
                sums[name] += _sums(terms(dense, mu, **totals), mu.shape)
                continue
            sums[name] += _sums(terms(0.0, mu, **whole), mu.shape)
            sums[name] -= _sums(terms(0.0, mu_at_x, **single), mu_at_x.shape)
            sums[name] += _sums(terms(x, mu_at_x, **single), mu_at_x.shape)
        if "coverage_90" in names:
            at = i * mu.shape[1] + j
            strata = strata + np.array(covered(mu, size, at[x != 0], x[x != 0], rng))
    scores = {name: float(top / bottom) if bottom else float("nan") for name, (top, bottom) in sums.items()}
    if "coverage_90" in names:
        scores["coverage_90"] = worst_coverage(*strata)
    return {name: scores[name] for name in names}


def _nonzeros(X: sp.csr_array, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row in the block, column and value (float64) of the stored entries of a block of rows."""
    start, stop = X.indptr[rows.start], X.indptr[rows.stop]
    i = np.repeat(np.arange(rows.stop - rows.start), np.diff(X.indptr[rows.start : rows.stop + 1]))
    return i, X.indices[start:stop], X.data[start:stop].astype(np.float64)


def _predictions(
    imputation: Imputation, ratio: float, with_size: bool, genes: np.ndarray | None
) -> Iterator[tuple[slice, np.ndarray, Any]]:
    """Blocks of rows: predicted means in float64 and, on request, the size of the negative binomial."""
    chunk = max(1, VALUES_PER_BLOCK // imputation.shape[1])
    for rows, values in imputation.blocks(chunk, genes=genes, keep_observed=False, scale="counts"):
        rate = values.astype(np.float64)
        check_finite("imputation", rate)
        size = None
        if with_size:
            variance = imputation.rows(rows, genes=genes, output="variance").astype(np.float64)
            size = np.divide(rate * rate, variance, out=np.full(rate.shape, np.inf), where=variance > 0)
        rate *= ratio
        yield rows, rate, size


def _genes_with_counts(split: Split) -> tuple[Any, np.ndarray | None]:
    """The test matrix without genes that have no training count, and the genes that stay (None: all)."""
    assert split.test is not None  # noqa: S101
    seen = np.bincount(split.train.X.indices, minlength=split.test.shape[1]) > 0
    if seen.all():
        return split.test, None
    genes = np.flatnonzero(seen)
    return split.test[:, genes], genes


def _sums(terms: tuple[Any, Any], shape: tuple[int, ...]) -> np.ndarray:
    return np.array([np.broadcast_to(term, shape).sum(dtype=np.float64) for term in terms])


def _at(imputation: Imputation, i: np.ndarray, j: np.ndarray, **options: Any) -> np.ndarray:
    values = np.empty(len(i))
    for start in range(0, len(i), ENTRIES_PER_CALL):
        part = slice(start, start + ENTRIES_PER_CALL)
        values[part] = imputation.at(i[part], j[part], **options)
    return values


def _before_hiding(reference: Data, split: Split) -> sp.csr_array:
    """The counts with the hidden ones put back, without stored zeros: then every stored entry is a nonzero."""
    import scipy.sparse as sp

    hidden = sp.coo_array((np.asarray(split.truth), (split.i, split.j)), shape=reference.shape)
    full = sp.csr_array(reference.X + hidden.tocsr())
    full.eliminate_zeros()
    return full


def _aligned(imputation: Imputation, split: Split) -> Data:
    """The data that the imputation must belong to, after a check that cells and genes are in the same order."""
    reference = split.train if split.apply is None else split.apply
    for what, imputed, expected in (
        ("cells", imputation.obs_names, reference.obs_names),
        ("genes", imputation.var_names, reference.var_names),
    ):
        difference = ""
        if len(imputed) != len(expected):
            difference = f"{len(imputed)} and {len(expected)}"
        elif len(different := np.flatnonzero(np.asarray(imputed) != np.asarray(expected))):
            k = different[0]
            difference = f"at position {k}: {imputed[k]!r} and {expected[k]!r}"
        if difference:
            raise InputError(
                f"{what} differ between imputation and split ({difference}): impute the split as it is",
                code="names-differ",
                parameter="imputation",
            )
    return reference


def _chosen(metrics: Sequence[str] | None, entries: str, unavailable: dict[str, str]) -> list[str]:
    """The metrics to compute; a metric that was asked for but is not available is an error, never left out silently."""
    fitting = [name for name, metric in METRICS.items() if metric.entries in (entries, "both")]
    if metrics is None:
        return [name for name in fitting if name not in unavailable and not METRICS[name].protocol]
    for name in metrics:
        if name not in METRICS:
            message = f"there is no metric {name!r}: choose from {', '.join(METRICS)}"
            raise InputError(message, code="unknown-metric", parameter="metrics")
        if name not in fitting or name in unavailable:
            reason = f"it is for {METRICS[name].entries} entries; choose from {', '.join(fitting)}"
            message = f"the metric {name} is not available: {unavailable.get(name, reason)}"
            raise InputError(message, code="metric-unavailable", parameter="metrics")
    return list(metrics)
