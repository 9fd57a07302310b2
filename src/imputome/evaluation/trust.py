"""What speaks for and against imputing some data by some method: gathered by hiding values and imputing again.

This module only measures. Letters: ``n`` cells, ``G`` genes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
from imputome.evaluation.mixing import Mixing, label_mixing
from imputome.evaluation.null import NullCorrelation, null_correlation
from imputome.evaluation.reliability import Reliability, gene_reliability
from imputome.evaluation.splits import Split, make_split
from imputome.evaluation.streaming import score_hidden, score_thinned
from imputome.evaluation.zeros import Zeros, zeros_before_and_after
from imputome.methods.base import Data, Imputation

if TYPE_CHECKING:
    import pandas as pd

# fits a method on the first data and imputes the second, or the first if that is None
Predict = Callable[[Data, Data | None], Imputation]
Progress = Callable[[float, str], None]

SPLITS = 3
CELLS = 2000  # looked at, at most
HELD_OUT = 0.1  # share of the molecules, or of the values of the test rows


@dataclass(frozen=True)
class Evidence:
    """What was measured on a sample of the cells.

    Attributes
    ----------
    method : name of what was judged.
    scores : a row for each method, split and metric: ``poisson_deviance``, ``poisson_loss`` and ``total_ratio`` of
        held-out molecules, or ``rmse`` of hidden values; ``coverage_90`` where the method gives intervals.
    null : correlations between permuted genes, before and after imputing.
    reliability, genes : what is explained of each gene beyond ``reference``, and the names of the genes.
    reference : name of the control that reliability is measured against.
    zeros : zeros before and after, of counts.
    mixing : label -> whether cells of different ones moved together; counts only.
    cells : number of cells looked at.
    fits : how many fits it took.
    """

    method: str
    scores: pd.DataFrame
    null: NullCorrelation
    reliability: Reliability
    genes: pd.Index
    reference: str
    zeros: Zeros | None
    mixing: dict[str, Mixing]
    cells: int
    fits: int

    def gains(self, metric: str) -> pd.DataFrame:
        """(splits, controls) by how much the method's error is below each control's, as a share of the control's.

        Over 0 the method is better. ``metric`` is one where less is better and that cannot be 0 or less for a control:
        ``poisson_deviance`` or ``rmse``.
        """
        part = self.scores[self.scores["metric"] == metric]
        wide = part.pivot(index="split", columns="method", values="value")
        others = wide.drop(columns=self.method)
        return 1 - others.rdiv(wide[self.method], axis=0)


def gather(
    data: Data,
    predict: Predict,
    *,
    method: str,
    controls: Mapping[str, Predict],
    reference: str,
    rng: np.random.Generator,
    labels: Mapping[str, Any] | None = None,
    n_splits: int = SPLITS,
    max_cells: int = CELLS,
    progress: Progress | None = None,
) -> Evidence:
    """Measure a method beside controls on a sample of the cells.

    Parameters
    ----------
    data : what is to be imputed. All genes are used, and ``max_cells`` cells drawn at random.
    predict, controls : the method, and by name what it has to be better than.
    reference : the control that genes are to be explained beyond: the gene mean, or for a method with the posterior
        step the posterior on the gene mean, which has seen the cell's own counts too.
    labels : name -> (n,) types or batches of the cells.

    Raises
    ------
    InputError
        The reference is no control, the method is called as a control is, or labels are not one for each cell.

    Cost: ``n_splits`` x (1 + number of controls) + 2 fits on the sample, the last without controls.
    """
    if reference not in controls:
        raise InputError(f"the reference {reference!r} is none of the controls {', '.join(controls)}")
    if method in controls:
        raise InputError(f"{method!r} is the name of a control too: give the method another")
    if n_splits < 1:
        raise InputError(f"n_splits={n_splits} must be at least 1")
    labels = dict(labels or {})
    for name, values in labels.items():
        if len(values) != data.shape[0]:
            raise InputError(f"{name} has {len(values)} labels for {data.shape[0]} cells: give one for each")
    cells = np.arange(data.shape[0])
    if len(cells) > max_cells:
        cells = np.sort(rng.choice(len(cells), max_cells, replace=False))
        data = data.subset(rows=cells)
    fits = n_splits * (1 + len(controls)) + 2
    done = 0

    def show(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done / fits, what)
        done += 1

    scheme = "thin" if data.kind == "counts" else "mcar"
    rows: list[dict[str, Any]] = []
    judged = []
    for number in range(n_splits):
        split = make_split(scheme, data, rng=rng, fraction=HELD_OUT)
        found = {}
        for name, one in {method: predict, **controls}.items():
            show(f"{name}, split {number + 1} of {n_splits}")
            found[name] = one(split.train, split.apply)
            rows += [
                {"method": name, "split": number, "metric": metric, "value": value}
                for metric, value in _scores(found[name], split).items()
            ]
        judged.append((split, found[method], found[reference]))
    show(f"{method}, genes permuted")
    null = null_correlation(lambda permuted: predict(permuted, None), data, rng=rng)
    show(f"{method}, nothing hidden")
    zeros, mixing = None, {}
    if data.kind == "counts":
        imputed = predict(data, None)
        zeros = zeros_before_and_after(imputed)
        mixing = _mixing(imputed, {name: np.asarray(values)[cells] for name, values in labels.items()})
    import pandas as pd

    return Evidence(
        method=method,
        scores=pd.DataFrame(rows),
        null=null,
        reliability=gene_reliability(judged, rng=rng),
        genes=data.var_names,
        reference=reference,
        zeros=zeros,
        mixing=mixing,
        cells=len(cells),
        fits=done,
    )


def _scores(imputation: Imputation, split: Split) -> dict[str, float]:
    if split.test is not None:
        wanted = ["poisson_deviance", "poisson_loss", "total_ratio"]
        if "variance" in imputation.outputs:
            wanted.append("coverage_90")
        return score_thinned(imputation, split, metrics=wanted)
    wanted = ["rmse"]
    if {"lower", "upper"} <= imputation.outputs:
        wanted.append("coverage_90")
    return score_hidden(imputation, split, metrics=wanted)


def _mixing(imputation: Imputation, labels: dict[str, np.ndarray]) -> dict[str, Mixing]:
    if not labels:
        return {}
    from imputome.evaluation.clustering import expression_components

    data = imputation.data
    depth = data.depth
    scale = np.divide(1e4, depth, out=np.zeros(len(depth)), where=depth > 0)
    before = expression_components(data.X * scale[:, None])
    after = expression_components(imputation.to_array(scale="normalized"))
    return {name: label_mixing(labels=values, before=before, after=after) for name, values in labels.items()}
