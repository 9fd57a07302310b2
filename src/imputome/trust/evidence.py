"""What speaks for and against imputing some data by some method: gathered by hiding values and imputing again.

This module only measures; `imputome.trust.verdict` judges. Letters: ``n`` cells, ``G`` genes.
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

SPLITS = 3
# cells, or samples, looked at, at most: the cost of some methods for real values grows with the cube of their number
CELLS: dict[Kind, int] = {"counts": 2000, "real": 400}
LEAST_CELLS, LEAST_GENES = 20, 3
HELD_OUT = 0.1  # share of the molecules, or of the values
LOSS: dict[Kind, str] = {"counts": "poisson_deviance", "real": "rmse"}


@dataclass(frozen=True)
class Evidence:
    """What was measured on a sample of the cells.

    Attributes
    ----------
    method, kind : name of what was judged, and of what data.
    scores : a row for each method, split and metric (columns ``method``, ``control``, ``split``, ``metric``,
        ``value``): ``poisson_deviance``, ``poisson_loss`` and ``total_ratio`` of held-out molecules, or ``rmse`` of
        hidden values; ``coverage_90`` where the method gives intervals.
    null : correlations between permuted genes, before and after imputing.
    reliability, genes : what is explained of each gene beyond ``reference``, and the names of the genes.
    reference : name of the control that reliability is measured against.
    zeros : zeros before and after, of counts.
    mixing : label -> whether cells of different ones moved together; counts only, and labels of which the sample has
        more than one.
    unmixed : the other labels that were asked for.
    calibration : coverage of the intervals per stratum, all splits together; None without intervals.
    cells, fits, seconds : how many cells were looked at, how many fits that took, and how long.
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
        """(splits, controls) by how much the method's error is below each control's, as a share of the control's.

        Over 0 the method is better. ``metric`` is one where less is better and that cannot be 0 or less for a control:
        ``poisson_deviance`` or ``rmse``.
        """
        part = self.scores[self.scores["metric"] == metric]
        wide = part.pivot(index="split", columns="method", values="value")
        others = wide.drop(columns=self.method)
        return 1 - others.rdiv(wide[self.method], axis=0)


def check_possible(data: Data) -> None:
    """Refuse data of which nothing can be held out.

    Raises
    ------
    InputError
        Counts that are no integers, fewer than 20 cells, or fewer than 3 genes.
    """
    check_size(*data.shape)
    if data.kind == "counts" and not is_integer(data.X.data):
        raise InputError(
            "the check hides molecules, and needs raw counts (integers): pass the layer that holds them, or leave the "
            "check out"
        )


def check_size(n: int, G: int) -> None:
    """Refuse matrices of which too little is left when something is held out."""
    if n < LEAST_CELLS or G < LEAST_GENES:
        raise InputError(
            f"{n} x {G} values are too few to check an imputation on or to choose a method by, which takes "
            f"{LEAST_CELLS} x {LEAST_GENES}: leave the check out, or name the method"
        )


def sample_cells(data: Data, max_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of at most ``max_cells`` cells drawn at random, in order."""
    n = data.shape[0]
    return np.arange(n) if n <= max_cells else np.sort(rng.choice(n, max_cells, replace=False))


def number_of_fits(kind: Kind, n_splits: int, n_controls: int) -> int:
    """How many fits `gather` makes."""
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
    n_splits: int = SPLITS,
    max_cells: int | None = None,
    keep_observed: bool | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Measure a method beside controls on a sample of the cells.

    Parameters
    ----------
    data : what is to be imputed. All genes are used, and ``max_cells`` cells drawn at random (None: `CELLS`).
    predict, controls : the method, and by name what it has to be better than.
    reference : the control that genes are to be explained beyond. For counts that is the posterior on the gene mean,
        which like most methods has seen the cell's own counts.
    labels : name -> (n,) types or batches of the cells.
    link : what errors of real values are measured on, each feature in its standard deviations: the method's own.
    keep_observed : whether observed values are put back in what will be written; None: the method's habit. Held-out
        values are judged without, whichever it is.

    Raises
    ------
    InputError
        The reference is no control, the method is called as a control is, labels are not one for each cell, or nothing
        can be held out (see `check_possible`).

    Cost: `number_of_fits` on the sample.
    """
    if reference not in controls:
        raise InputError(f"the reference {reference!r} is none of the controls {', '.join(controls)}")
    if method in controls:
        raise InputError(f"{method!r} is the name of a control too: give the method another")
    if n_splits < 1:
        raise InputError(f"n_splits={n_splits} must be at least 1")
    check_possible(data)
    labels = dict(labels or {})
    for name, values in labels.items():
        if len(values) != data.shape[0]:
            raise InputError(f"{name} has {len(values)} labels for {data.shape[0]} cells: give one for each")
    begun = time.perf_counter()
    cells = sample_cells(data, max_cells or CELLS[data.kind], rng)
    data = data.subset(rows=cells)
    fits = number_of_fits(data.kind, n_splits, len(controls))
    done = 0

    def show(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done / fits, what)
        done += 1

    rows: list[dict[str, Any]] = []
    judged, strata = [], []
    for number in range(n_splits):
        split = hold_out(data, rng)
        found = {}
        for name, one in {method: predict, **controls}.items():
            show(f"{name}, split {number + 1} of {n_splits}")
            found[name] = one(split.train)
            common = {"method": name, "control": name in controls, "split": number}
            rows += [
                {**common, "metric": metric, "value": value}
                for metric, value in scores(found[name], split, link=link).items()
            ]
        judged.append((split, found[method], found[reference]))
        if _has_intervals(found[method]):
            strata.append(calibration(found[method], split))
    show(f"{method}, genes permuted")
    null = null_correlation(predict, data, rng=rng, keep_observed=keep_observed)
    zeros = None
    mixing: dict[str, Mixing] = {}
    if data.kind == "counts":
        show(f"{method}, nothing hidden")
        imputed = predict(data)
        zeros = zeros_before_and_after(imputed, keep_observed=keep_observed)
        mixing = _mixing(imputed, {name: np.asarray(values)[cells] for name, values in labels.items()}, keep_observed)
    import pandas as pd

    return Evidence(
        method=method,
        kind=data.kind,
        scores=pd.DataFrame(rows),
        null=null,
        reliability=gene_reliability(judged, rng=rng, link=link),
        genes=data.var_names,
        reference=reference,
        zeros=zeros,
        mixing=mixing,
        unmixed=tuple(name for name in labels if name not in mixing),
        calibration=_pooled(strata) if strata else None,
        cells=len(cells),
        fits=done,
        seconds=time.perf_counter() - begun,
    )


def hold_out(data: Data, rng: np.random.Generator) -> Split:
    """A tenth of the molecules, or of the values in all rows, held out."""
    if data.kind == "counts":
        return make_split("thin", data, rng=rng, fraction=HELD_OUT)
    return make_split("mcar", data, rng=rng, fraction=HELD_OUT, rows="all")


def scores(imputation: Imputation, split: Split, *, link: str = "identity") -> dict[str, float]:
    """The metrics of `Evidence.scores` for one imputation of the training part of a split by `hold_out`.

    The error of real values is that of `Units`: on the link, in standard deviations of the feature over all its known
    values, hidden or not, of usable features.

    Raises
    ------
    InputError
        Real values of which no hidden one is of a usable feature.
    """
    if split.test is not None:
        interval = ["coverage_90"] if _has_intervals(imputation) else []
        return score_thinned(imputation, split, metrics=["poisson_deviance", "poisson_loss", "total_ratio", *interval])
    assert split.i is not None and split.j is not None and split.truth is not None  # noqa: S101, PT018
    units = Units(split.train, link, (split.j, split.truth))
    kept = units.usable[split.j]
    if not kept.any():
        raise InputError(
            "no feature with a hidden value varies in what is left, so that nothing can be judged: leave the check "
            "out, or name the method"
        )
    i, j = split.i[kept], split.j[kept]
    gap = units.of(imputation.at(i, j, keep_observed=False), j) - units.of(split.truth[kept], j)
    found = {"rmse": float(np.sqrt(np.mean(np.square(gap))))}
    if _has_intervals(imputation):
        found |= score_hidden(imputation, split, metrics=["coverage_90"])
    return found


def _has_intervals(imputation: Imputation) -> bool:
    """Of counts the posterior's variance makes them."""
    needed = {"variance"} if imputation.data.kind == "counts" else {"lower", "upper"}
    return needed <= imputation.outputs


def _pooled(strata: list[pd.DataFrame]) -> pd.DataFrame:
    """Coverage of several splits together, stratum by stratum; bounds are the first split's."""
    import pandas as pd

    entries = np.sum([table["entries"] for table in strata], axis=0)
    inside = np.nansum([table["entries"] * table["coverage"] for table in strata], axis=0)
    coverage = np.divide(inside, entries, out=np.full(len(entries), np.nan), where=entries > 0)
    return pd.DataFrame({**strata[0][["low", "high"]], "entries": entries, "coverage": coverage})


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
