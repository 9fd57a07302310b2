"""Measurements on an imputation method and some data: values are held out, and the method is fitted again.

This module measures; `imputome.trust.verdict` decides.

Letters: ``n`` cells or samples, ``G`` genes or features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data, Kind
from imputome.core.imputation import Imputation
from imputome.core.scales import is_integer
from imputome.errors import InputError
from imputome.evaluation.splits import Split, make_split
from imputome.evaluation.streaming import Units, calibration, score_hidden, score_thinned
from imputome.trust.mixing import Mixing, label_mixing
from imputome.trust.null import NullCorrelation, null_correlation
from imputome.trust.reliability import Reliability, gene_reliability
from imputome.trust.zeros import Zeros, zeros_before_and_after

if TYPE_CHECKING:
    import pandas as pd

Predict = Callable[[Data], Imputation]  # fits a method on the data and imputes them
Progress = Callable[[float, str], None]

N_SPLITS = 3
# the check uses at most so many cells, or samples: the cost of some methods for real values grows with their cube
MAX_CELLS: dict[Kind, int] = {"counts": 2000, "real": 400}
MIN_CELLS, MIN_GENES = 20, 3
HELD_OUT_SHARE = 0.1  # of the molecules, or of the values
LOSS: dict[Kind, str] = {"counts": "poisson_deviance", "real": "rmse"}


@dataclass(frozen=True)
class Evidence:
    """Measurements on a sample of the cells.

    Attributes
    ----------
    method : str
        Name of the method.
    kind : {"counts", "real"}
        Kind of the data.
    scores : DataFrame
        A row per method, split and metric (columns ``method``, ``control``, ``split``, ``metric``, ``value``).
        Metrics: ``poisson_deviance``, ``poisson_loss`` and ``total_ratio`` of held-out molecules, or ``rmse`` of hidden
        values; ``coverage_90`` if the method gives intervals.
    null : NullCorrelation
        Correlations between permuted genes, before and after imputing.
    reliability : Reliability
        What the method explains of each gene beyond ``reference``.
    genes : Index
        Names of the genes.
    reference : str
        Name of the control that ``reliability`` compares with.
    zeros : Zeros or None
        Zeros before and after; None for real values.
    mixing : dict of str to Mixing
        By name of the labels: whether cells of different labels mix. Counts only, and only names with more than one
        label in the sample.
    unmixed : tuple of str
        The other names of labels that were asked for.
    calibration : DataFrame or None
        Coverage of the intervals per stratum, all splits together; None without intervals.
    cells, fits : int
        Number of cells used, and of fits made.
    seconds : float
        Time taken.
    """

    method: str
    kind: Kind
    scores: pd.DataFrame
    null: NullCorrelation
    reliability: Reliability
    genes: pd.Index
    reference: str
    zeros: Zeros | None
    mixing: dict[str, Mixing]
    unmixed: tuple[str, ...]
    calibration: pd.DataFrame | None
    cells: int
    fits: int
    seconds: float

    def gains(self, metric: str) -> pd.DataFrame:
        """How far the method's error is below the error of each control, as a share of the control's error.

        Parameters
        ----------
        metric : {"poisson_deviance", "rmse"}
            A metric where less is better and that is above 0 for every control.

        Returns
        -------
        DataFrame
            A row per split, a column per control; above 0 the method is better.
        """
        part = self.scores[self.scores["metric"] == metric]
        wide = part.pivot(index="split", columns="method", values="value")
        of_controls = wide.drop(columns=self.method)
        return 1 - of_controls.rdiv(wide[self.method], axis=0)


def check_possible(data: Data) -> None:
    """Check that part of the data can be held out.

    Raises
    ------
    InputError
        Counts that are not integers, fewer than 20 cells, or fewer than 3 genes.
    """
    check_size(*data.shape)
    if data.kind == "counts" and not is_integer(data.X.data):
        raise InputError(
            "the check holds out molecules and needs raw counts (integers): pass {layer} with them, or leave out the "
            "check",
            code="check-needs-counts",
            layer=...,
        )


def check_size(n: int, G: int) -> None:
    """Check that a matrix is large enough to hold out part of it."""
    if n < MIN_CELLS or G < MIN_GENES:
        raise InputError(
            f"a matrix of {n} x {G} is too small to check an imputation or to choose a method, which needs "
            f"{MIN_CELLS} x {MIN_GENES}: leave out the check, or pass {{method}}",
            code="too-small-to-check",
            method=...,
        )


def sample_cells(data: Data, max_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of at most ``max_cells`` cells drawn at random, in order."""
    n = data.shape[0]
    return np.arange(n) if n <= max_cells else np.sort(rng.choice(n, max_cells, replace=False))


def number_of_fits(kind: Kind, n_splits: int, n_controls: int) -> int:
    """Number of fits that `gather` makes."""
    return n_splits * (1 + n_controls) + (2 if kind == "counts" else 1)


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

    Parameters
    ----------
    data : Data
        The data to impute. All genes are used.
    predict : callable
        The method: fits it on data and imputes these.
    method : str
        Name of the method.
    controls : mapping of str to callable
        What the method must beat, by name.
    reference : str
        The control that single genes are compared with. For counts it is the posterior on the gene mean, which has seen
        the cell's own counts, as most methods have.
    rng : numpy.random.Generator
        Source of randomness.
    labels : mapping of str to array-like of shape (n,), optional
        Types or batches of the cells, by name.
    link : str, default="identity"
        Link of the method: errors of real values are measured on it, in standard deviations of the feature.
    n_splits : int, default=3
        Number of times that values are held out.
    max_cells : int, optional
        Cells to use, drawn at random; by default as in `MAX_CELLS`.
    keep_observed : bool, optional
        Whether observed values are put back in the output; by default as the method does it. Held-out values are always
        scored without.
    progress : callable, optional
        Called with the share of fits done (0 to 1) and a short text.

    Returns
    -------
    Evidence

    Raises
    ------
    InputError
        The reference is not a control, a control has the name of the method, there is not one label per cell, or
        nothing can be held out (see `check_possible`).

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
        raise InputError(
            f"n_splits is {n_splits}: pass {{n_splits}} of at least 1", code="parameter-value", n_splits=...
        )
    check_possible(data)
    labels = dict(labels or {})
    for name, values in labels.items():
        if len(values) != data.shape[0]:
            raise InputError(
                f"{name} has {len(values)} labels for {data.shape[0]} cells: pass one for each",
                code="length-mismatch",
                parameter="labels",
            )
    start = time.perf_counter()
    cells = sample_cells(data, max_cells or MAX_CELLS[data.kind], rng)
    data = data.subset(rows=cells)
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
        split = hold_out(data, rng)
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
    zeros = None
    mixing: dict[str, Mixing] = {}
    if data.kind == "counts":
        report(f"{method}, nothing hidden")
        imputed = predict(data)
        zeros = zeros_before_and_after(imputed, keep_observed=keep_observed)
        mixing = _mixing(imputed, {name: np.asarray(values)[cells] for name, values in labels.items()}, keep_observed)
    import pandas as pd

    return Evidence(
        method=method,
        kind=data.kind,
        scores=pd.DataFrame(rows),
        null=null,
        reliability=gene_reliability(comparisons, rng=rng, link=link),
        genes=data.var_names,
        reference=reference,
        zeros=zeros,
        mixing=mixing,
        unmixed=tuple(name for name in labels if name not in mixing),
        calibration=_pooled(coverage) if coverage else None,
        cells=len(cells),
        fits=done,
        seconds=time.perf_counter() - start,
    )


def hold_out(data: Data, rng: np.random.Generator) -> Split:
    """Hold out a tenth of the molecules, or of the values in all rows."""
    if data.kind == "counts":
        return make_split("thin", data, rng=rng, fraction=HELD_OUT_SHARE)
    return make_split("mcar", data, rng=rng, fraction=HELD_OUT_SHARE, rows="all")


def scores(imputation: Imputation, split: Split, *, link: str = "identity") -> dict[str, float]:
    """The metrics of `Evidence.scores` for one imputation of the training part of a split.

    The error of real values is in the unit of `Units`: on the link, in standard deviations of the feature over all its
    known values, hidden or not. Only usable features count.

    Parameters
    ----------
    imputation : Imputation
        Of the training part.
    split : Split
        From `hold_out`.
    link : str, default="identity"
        Link on which errors of real values are measured.

    Returns
    -------
    dict of str to float
        Score by name of the metric.

    Raises
    ------
    InputError
        No hidden real value is of a usable feature.
    """
    if split.test is not None:
        interval = ["coverage_90"] if _has_intervals(imputation) else []
        return score_thinned(imputation, split, metrics=["poisson_deviance", "poisson_loss", "total_ratio", *interval])
    assert split.i is not None and split.j is not None and split.truth is not None  # noqa: S101, PT018
    units = Units(split.train, link, (split.j, split.truth))
    usable = units.usable[split.j]
    if not usable.any():
        raise InputError(
            "no feature with a hidden value varies in the training part, so errors cannot be measured: leave out the "
            "check, or pass {method}",
            code="no-feature-varies",
            method=...,
        )
    i, j = split.i[usable], split.j[usable]
    gap = units.of(imputation.at(i, j, keep_observed=False), j) - units.of(split.truth[usable], j)
    values = {"rmse": float(np.sqrt(np.mean(np.square(gap))))}
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
