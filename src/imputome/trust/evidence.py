"""Measurements for the check: values are held out, and the method is fitted again; `imputome.trust.verdict` decides.

Letters: ``n`` cells or samples, ``G`` genes or features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import WIDE_FEATURES, Data, Kind
from imputome.core.imputation import Imputation
from imputome.errors import InputError
from imputome.evaluation.arguments import check_length
from imputome.evaluation.splits import Split, make_split
from imputome.evaluation.streaming import calibration, score_hidden, score_thinned
from imputome.trust.imitation import AT_RANDOM, Imitation, imitation_of
from imputome.trust.mixing import Mixing, label_mixing
from imputome.trust.null import NullCorrelation, null_correlation
from imputome.trust.reliability import Reliability, gene_reliability
from imputome.trust.zeros import Zeros, confident_rates, zeros_before_and_after

if TYPE_CHECKING:
    import pandas as pd

    from imputome.result.run import Progress

Predict = Callable[[Data], Imputation]  # fits a method on the data and imputes them

N_SPLITS = 3
# the check uses at most so many cells, or samples: the cost of some methods for real values grows with their cube
MAX_CELLS: dict[Kind, int] = {"counts": 2000, "real": 400}
MAX_FEATURES = 4096  # of real values with more than `WIDE_FEATURES`, drawn at random
MIN_CELLS, MIN_GENES = 20, 3
HELD_OUT_SHARE = 0.1  # of the molecules, or of the values
LOSS: dict[Kind, str] = {"counts": "poisson_deviance", "real": "rmse"}


NOT_MEASURED = (float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Evidence:
    """Measurements on a sample of the cells."""

    method: str
    kind: Kind
    # a row per method, split and metric (columns method, control, split, metric, value); metrics: poisson_deviance,
    # poisson_loss and total_ratio of held-out molecules, or rmse of hidden values; coverage_90 if there are intervals
    scores: pd.DataFrame
    # correlations between permuted genes, before and after imputing; None if the method cannot be run again
    null: NullCorrelation | None
    reliability: Reliability  # what the method explains of each gene beyond `reference`
    genes: pd.Index
    reference: str  # the control that `reliability` compares with
    zeros: Zeros | None  # None for real values
    mixing: dict[
        str, Mixing
    ]  # by name of the labels; counts only, and only columns with two or more labels in the sample
    unmixed: tuple[str, ...]  # labels that were passed but could not be measured
    calibration: pd.DataFrame | None  # coverage of the intervals per stratum, all `worst_splits` together
    cells: int
    fits: int
    seconds: float
    imitation: Imitation = AT_RANDOM  # how real values were held out
    explained: tuple[float, float, float] = NOT_MEASURED  # `Reliability.overall` of the `worst_splits` alone
    zeros_of_control: Zeros | None = None  # of `reference`, on the same data: a yardstick for `zeros`
    worst_splits: tuple[int, ...] = ()  # if values are held out in two ways: those of the way that explains least

    def gains(self, metric: str) -> pd.DataFrame:
        """1 - (the method's error) / (a control's error): a row per split, a column per control; above 0 the method is
        better.

        ``metric`` must be one where less is better and that is above 0 for every control: ``poisson_deviance`` or
        ``rmse``.
        """
        part = self.scores[self.scores["metric"] == metric]
        wide = part.pivot(index="split", columns="method", values="value")
        return 1 - wide.drop(columns=self.method).rdiv(wide[self.method], axis=0)


def check_possible(data: Data) -> None:
    """Check that part of the data can be held out: a large enough matrix and, of counts, integers."""
    check_size(*data.shape)
    if data.kind == "counts" and not data.holds_integers:
        raise InputError(
            "the check needs raw counts (integers): pass {layer} with them, or {check}",
            code="not-integers",
            layer=...,
            check=False,
        )


def check_size(n: int, G: int) -> None:
    """Check that a matrix is large enough to hold out part of it."""
    if n < MIN_CELLS or G < MIN_GENES:
        raise InputError(
            f"the matrix is {n} x {G}; a check, or the choice of a method, needs {MIN_CELLS} x {MIN_GENES}: pass "
            "{check}, and the name of a {method} instead of auto",
            code="too-small-to-check",
            check=False,
            method=...,
        )


def sample_cells(data: Data, max_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of at most ``max_cells`` cells drawn at random, in order."""
    n = data.shape[0]
    return np.arange(n) if n <= max_cells else np.sort(rng.choice(n, max_cells, replace=False))


def sample_features(data: Data, rng: np.random.Generator) -> np.ndarray | None:
    """Positions of the features that a check uses, in order; None means all."""
    G = data.shape[1]
    return None if features_used(data.kind, G) == G else np.sort(rng.choice(G, MAX_FEATURES, replace=False))


def features_used(kind: Kind, G: int) -> int:
    """How many of G features a check uses."""
    return MAX_FEATURES if kind == "real" and G > WIDE_FEATURES else G


def number_of_fits(kind: Kind, n_splits: int, n_controls: int) -> int:
    """Number of fits that `gather` makes."""
    if kind == "real":
        return n_splits * (1 + n_controls) + 1
    return n_splits * (1 + n_controls) + 2 + (n_controls > 0)  # the reference once on all molecules, for its zeros


def gather(
    data: Data,
    predict: Predict,
    *,
    method: str,
    controls: Mapping[str, Predict],
    reference: str,
    rng: np.random.Generator,
    labels: Mapping[str, Any] | None = None,
    link: str = "identity",
    n_splits: int = N_SPLITS,
    max_cells: int | None = None,
    keep_observed: bool | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Measure a method and the controls on a sample of the cells.

    ``predict`` fits the method on data and imputes these; ``controls`` holds such callables by name. Single genes are
    compared with the control ``reference``: for counts the posterior on the gene mean, which has seen the cell's own
    counts, as most methods have. ``labels`` holds types or batches, arrays of shape (n,) by name. Errors of real values
    are measured on ``link``. Values are held out ``n_splits`` times, or two if that is fewer and they are held out in
    two ways, in at most ``max_cells`` cells (None: `MAX_CELLS`) and all genes; of real values with more than
    `WIDE_FEATURES` features, in `MAX_FEATURES` of them, drawn at random. ``keep_observed`` says whether observed values
    are put back in the output (None: the method's default); held-out values are always scored without.

    Cost: `number_of_fits` on the sample.
    """
    if reference not in controls:
        raise InputError(
            f"the reference {reference!r} is not a control: choose from {', '.join(controls)}",
            code="unknown-control",
            parameter="reference",
        )
    if method in controls:
        raise InputError(
            f"a control is called {method!r} too: give the method another name", code="name-taken", parameter="method"
        )
    if n_splits < 1:
        raise InputError(f"n_splits={n_splits} must be at least 1", code="parameter-value", parameter="n_splits")
    check_possible(data)
    labels = dict(labels or {})
    for values in labels.values():
        check_length("labels", values, data.shape[0])
    start = time.perf_counter()
    cells = sample_cells(data, max_cells or MAX_CELLS[data.kind], rng)
    features = sample_features(data, rng)
    whole = data if features is None else data.subset(columns=features)
    data = whole.subset(rows=cells)
    imitation = imitation_of(whole, data) if data.kind == "real" else AT_RANDOM
    n_splits = max(n_splits, len(imitation.ways))  # one way alone may be too easy
    fits = number_of_fits(data.kind, n_splits, len(controls))
    done = 0

    def report(text: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done / fits, text)
        done += 1

    rows: list[dict[str, Any]] = []
    comparisons, coverage = [], []
    for number in range(n_splits):
        split = hold_out(data, rng, imitation, number)
        imputations = {}
        for name, fit_predict in {method: predict, **controls}.items():
            report(f"{name}, split {number + 1} of {n_splits}")
            imputations[name] = fit_predict(split.train)
            common = {"method": name, "control": name in controls, "split": number}
            rows += [
                {**common, "metric": metric, "value": value}
                for metric, value in scores(imputations[name], split, link=link).items()
            ]
        comparisons.append((split, imputations[method], imputations[reference]))
        if _has_intervals(imputations[method]):
            coverage.append(calibration(imputations[method], split))
    report(f"{method}, genes permuted")
    null = null_correlation(predict, data, rng=rng, keep_observed=keep_observed)
    zeros = zeros_of_control = None
    mixing: dict[str, Mixing] = {}
    if data.kind == "counts":
        report(f"{method}, nothing hidden")
        imputed = predict(data)
        rates = confident_rates(data)
        zeros = zeros_before_and_after(imputed, keep_observed=keep_observed, rates=rates)
        report(f"{reference}, nothing hidden")
        control = controls[reference](data)
        zeros_of_control = zeros_before_and_after(control, keep_observed=keep_observed, rates=rates)
        mixing = _mixing(imputed, {name: np.asarray(values)[cells] for name, values in labels.items()}, keep_observed)
    import pandas as pd

    reliability = gene_reliability(comparisons, rng=rng, link=link)
    explained, worst = reliability.overall, range(n_splits)
    if len(imitation.ways) > 1:
        by_way = [range(way, n_splits, len(imitation.ways)) for way in range(len(imitation.ways))]
        overall = [gene_reliability([comparisons[k] for k in ks], rng=rng, link=link).overall for ks in by_way]
        least = int(np.argmin([np.nan_to_num(one[0], nan=np.inf) for one in overall]))
        explained, worst = overall[least], by_way[least]
    return Evidence(
        method=method,
        kind=data.kind,
        scores=pd.DataFrame(rows),
        null=null,
        reliability=reliability,
        genes=data.var_names,
        reference=reference,
        zeros=zeros,
        zeros_of_control=zeros_of_control,
        mixing=mixing,
        unmixed=tuple(name for name in labels if name not in mixing),
        calibration=_pooled([coverage[k] for k in worst]) if coverage else None,
        cells=len(cells),
        fits=done,
        seconds=time.perf_counter() - start,
        imitation=imitation,
        explained=explained,
        worst_splits=tuple(worst),
    )


def hold_out(data: Data, rng: np.random.Generator, imitation: Imitation = AT_RANDOM, number: int = 0) -> Split:
    """Hold out a tenth of the molecules, or of the values in all rows: the split ``number`` of ``imitation``."""
    if data.kind == "counts":
        return make_split("thin", data, rng=rng, fraction=HELD_OUT_SHARE)
    return imitation.split(data, rng, HELD_OUT_SHARE, number)


def scores(imputation: Imputation, split: Split, *, link: str = "identity") -> dict[str, float]:
    """The metrics of `Evidence.scores` for one imputation of the training part of a split from `hold_out`.

    The error of real values is in the unit of `Units`: on the link, in standard deviations of the feature over all its
    known values, hidden or not. Only usable features count.
    """
    if split.test is not None:
        interval = ["coverage_90"] if _has_intervals(imputation) else []
        return score_thinned(imputation, split, metrics=["poisson_deviance", "poisson_loss", "total_ratio", *interval])
    error = score_hidden(imputation, split, metrics=["rmse_sd"], link_name=link)["rmse_sd"]
    if np.isnan(error):
        raise InputError(
            "no feature with a hidden value varies in the training part: pass {check}, and the name of a {method} "
            "instead of auto",
            code="no-feature-varies",
            check=False,
            method=...,
        )
    values = {"rmse": error}
    if _has_intervals(imputation):
        values |= score_hidden(imputation, split, metrics=["coverage_90"])
    return values


def _has_intervals(imputation: Imputation) -> bool:
    """Whether there are intervals; for counts they come from the variance of the posterior."""
    needed = {"variance"} if imputation.data.kind == "counts" else {"lower", "upper"}
    return needed <= imputation.outputs


def _pooled(coverage_tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Coverage of several splits together, per stratum; limits of strata are those of the first split."""
    import pandas as pd

    entries = np.sum([table["entries"] for table in coverage_tables], axis=0)
    inside = np.nansum([table["entries"] * table["coverage"] for table in coverage_tables], axis=0)
    coverage = np.divide(inside, entries, out=np.full(len(entries), np.nan), where=entries > 0)
    return pd.DataFrame({**coverage_tables[0][["low", "high"]], "entries": entries, "coverage": coverage})


def _mixing(imputation: Imputation, labels: dict[str, np.ndarray], keep_observed: bool | None) -> dict[str, Mixing]:
    import pandas as pd

    labels = {name: values for name, values in labels.items() if pd.Series(values).nunique() > 1}
    if not labels:
        return {}
    from imputome.evaluation.clustering import expression_components

    data = imputation.data
    depth = data.depth
    scale = np.divide(1e4, depth, out=np.zeros(len(depth)), where=depth > 0)
    before = expression_components(data.X * scale[:, None])
    after = expression_components(imputation.to_array(scale="normalized", keep_observed=keep_observed))
    return {name: label_mixing(labels=values, before=before, after=after) for name, values in labels.items()}
