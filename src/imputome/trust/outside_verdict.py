"""The verdict on what another tool made of a masked data set, by the rule of `imputome.trust.verdict`.

There is one split, and the tool cannot be fitted again. So what needs further fits is left out: correlations between
permuted genes, and the mixing of labels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation
from imputome.errors import InputError
from imputome.evaluation.outside import Fitted
from imputome.evaluation.returned import Returned
from imputome.evaluation.splits import Split
from imputome.evaluation.streaming import score_hidden, score_thinned
from imputome.methods import REFERENCE
from imputome.result.record import Verdict
from imputome.trust.evidence import LOSS, MAX_CELLS, Evidence, sample_cells
from imputome.trust.imitation import Imitation, imitation_of
from imputome.trust.reliability import gene_reliability
from imputome.trust.verdict import RULE, USE, VERDICTS, WITHHELD, verdict_of

NOT_RUN_AGAIN = (
    "correlations that the tool makes between unrelated genes were not measured: it would have to be run again"
)
TOO_LITTLE = (
    "too few cells are there to tell how certain the scores are, so that there is no verdict: have the tool give more "
    "cells"
)


def outside_verdict(
    result: Fitted,
    controls: Mapping[str, Imputation],
    back: Returned,
    *,
    name: str,
    link: str = "identity",
    seed: int = 0,
) -> Verdict:
    """The verdict on the values of a tool.

    Parameters
    ----------
    result : Fitted
        The values, as an imputation of the training part of their split (n, G).
    controls : mapping of str to Imputation
        All controls of `imputome.methods.controls`, of the same part.
    back : Returned
        How many hidden values came back exactly (`imputome.evaluation.outside.returned`).
    name : str
        The name of the tool.
    link : str, default="identity"
        Transform on which errors of real values are measured.
    seed : int, default=0
        Of the blocks of cells of the jackknife.

    Returns
    -------
    Verdict
        ``withheld`` at best if the scores cannot answer whether to impute: if only nonzero counts were hidden, if
        hidden values came back exactly although nothing but the truth could show them, or if values of data with
        missing blocks were not hidden in blocks; and always if too few cells are there for an interval.

    Notes
    -----
    Cost: that of `imputome.trust.reliability.gene_reliability`, and for real values of
    `imputome.trust.imitation.imitation_of` on at most 400 samples.
    """
    start = time.perf_counter()
    split = result.split
    if split.train.kind == "counts" and split.test is None:
        verdict = _on_nonzeros(result, controls, name)
    else:
        verdict = verdict_of(_evidence(result, controls, name, link, seed), seed=seed)
        verdict = replace(verdict, reasons=(*verdict.reasons, NOT_RUN_AGAIN), held_out=split.scheme)
        if split.train.kind == "real":
            verdict = _in_another_pattern(verdict, split, seed)
    if math.isfinite(verdict.figures.get("explained", math.nan)) and math.isnan(
        verdict.figures.get("explained_lower", math.nan)
    ):
        verdict = replace(verdict, verdict=WITHHELD, reasons=(TOO_LITTLE, *verdict.reasons), failed=("held out",))
    if back.leaked:
        text = (
            f"{back.telling_equal:,} of {back.telling:,} hidden values that nothing in the masked data shows came back "
            f"exactly{back.how}: the tool was run on data in which they were not hidden, and the scores say nothing"
        )
        verdict = _at_best_withheld(verdict, text)
    seconds = time.perf_counter() - start
    return replace(verdict, method=name, fits=len(controls), seconds=seconds, seed=seed)


def _evidence(result: Fitted, controls: Mapping[str, Imputation], name: str, link: str, seed: int) -> Evidence:
    import pandas as pd

    split = result.split
    kind = split.train.kind
    reference = REFERENCE[kind]
    if name in controls:
        text = f"a control is called {name!r} too: give the tool another {{name}}"
        raise InputError(text, code="name-taken", name=...)
    rows = []
    for each, imputation in {name: result.imputation, **controls}.items():
        common = {"method": each, "control": each in controls, "split": 0}
        for metric, value in _scores(imputation, split, link).items():
            rows.append({**common, "metric": metric, "value": value})
    comparison = (split, result.imputation, controls[reference])
    reliability = gene_reliability([comparison], rng=np.random.default_rng(seed), link=link)
    return Evidence(
        method=name,
        kind=kind,
        scores=pd.DataFrame(rows),
        null=None,
        reliability=reliability,
        genes=split.train.var_names,
        reference=reference,
        zeros=None,
        mixing={},
        unmixed=(),
        calibration=None,
        cells=split.train.shape[0],
        fits=len(controls),
        seconds=0.0,
        imitation=Imitation(split.scheme, ({},), f"values were held out by the scheme {split.scheme}"),
        explained=reliability.overall,
        worst_splits=(0,),
    )


def _scores(imputation: Imputation, split: Split, link: str) -> dict[str, float]:
    """The scores that the rule looks at; that of real values is called as in `Evidence.scores`."""
    if split.test is not None:
        return score_thinned(imputation, split, metrics=["poisson_deviance", "poisson_loss", "total_ratio"])
    return {LOSS["real"]: score_hidden(imputation, split, metrics=["rmse_sd"], link_name=link)["rmse_sd"]}


def _on_nonzeros(result: Fitted, controls: Mapping[str, Imputation], name: str) -> Verdict:
    """Hidden nonzeros reward a method that raises every zero, so that they decide nothing."""
    split = result.split
    errors = {
        each: score_hidden(imputation, split, metrics=["nrmse"])["nrmse"] for each, imputation in controls.items()
    }
    mine = score_hidden(result.imputation, split, metrics=["nrmse", "total_ratio"])
    best = min(errors, key=lambda each: errors[each])
    gain = 1 - mine["nrmse"] / errors[best] if errors[best] > 0 else math.nan
    beaten = f"{100 * abs(gain):.1f} % {'below' if gain > 0 else 'above'}" if not math.isnan(gain) else "not below"
    reasons = (
        "only nonzeros were hidden, and their scores are best for a tool that raises every zero: hide molecules with "
        "the scheme thin, and run the tool on these, for a verdict",
        f"the tool's error on hidden nonzeros is {beaten} that of {best}, the best control",
        f"its values of hidden nonzeros sum to {100 * mine['total_ratio']:.0f} % of the truth",
    )
    figures = {"total_ratio": mine["total_ratio"], f"gain_over_{best}": gain}
    return Verdict(
        WITHHELD,
        reasons,
        figures,
        ("scheme",),
        rule=RULE,
        kind="counts",
        cells=split.train.shape[0],
        genes_used=split.train.shape[1],
        reference=best,
        held_out=split.scheme,
    )


def _in_another_pattern(verdict: Verdict, split: Split, seed: int) -> Verdict:
    """Say where the values that were missing before are missing in another pattern than values were hidden."""
    data = _before(split)
    rng = np.random.default_rng(seed)
    like = imitation_of(data, data.subset(rows=sample_cells(data, MAX_CELLS["real"], rng)))
    if like.scheme == split.scheme or math.isnan(like.unlinked):
        return verdict
    text = f"values were hidden by the scheme {split.scheme}, but those that are missing look as by {like}: hide "
    text += f"values with the scheme {like.scheme}, and run the tool on these, for a verdict about the missing values"
    if like.scheme == "blocks":
        return _at_best_withheld(verdict, text)
    return replace(verdict, reasons=(*verdict.reasons, text))


def _before(split: Split) -> Data:
    """The data before values were hidden."""
    X: Any = split.train.known_values().copy()
    X[split.i, split.j] = split.truth
    return replace(split.train, X=X, observed=None)


def _at_best_withheld(verdict: Verdict, reason: str) -> Verdict:
    worst = max(VERDICTS.index(verdict.verdict), VERDICTS.index(WITHHELD))
    failed = verdict.failed if verdict.verdict != USE else ()
    return replace(verdict, verdict=VERDICTS[worst], reasons=(reason, *verdict.reasons), failed=(*failed, "held out"))
