"""Checking an imputation: the same method, fitted again with values hidden, beside the controls; and the verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
from imputome.evaluation.splits import seed_for
from imputome.methods import REFERENCE, controls, create
from imputome.result.adapt import covariate_columns
from imputome.result.layout import default_key
from imputome.trust.evidence import MAX_CELLS, N_SPLITS, Predict, check_size, gather, number_of_fits
from imputome.trust.verdict import Verdict, judge, record

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.core.data import Data
    from imputome.core.imputation import Imputation
    from imputome.core.imputer import Imputer
    from imputome.inspection.state import InputReport
    from imputome.result.run import Progress, Run

PER_LABEL = 3  # cells that a label must have on average
JUDGED = "this imputation"  # its name in the tables where that is a control's too


def predicting(estimator: Imputer) -> Predict:
    """A callable that fits a fresh copy of the estimator and imputes what it was fitted on."""

    def predict(data: Data) -> Imputation:
        fresh = estimator.clone()
        fresh.link = estimator.link
        return fresh.fit_transform(data)

    return predict


def control_estimators(kind: str, seed: int, link: str = "identity") -> dict[str, Imputer]:
    """The controls for that kind of data, by name.

    They are on the link on which errors are measured: the mean of heavy-tailed values is far from the mean of their
    arcsinh, and everything that centres there would beat it, on pure noise too.
    """
    found = {name: create(name, random_state=seed) for name in controls(kind)}  # type: ignore[arg-type]
    for control in found.values():
        control.link = link
    return found


def check(
    data: Data,
    estimator: Imputer,
    *,
    labels: dict[str, Any] | None = None,
    seed: int = 0,
    n_splits: int = N_SPLITS,
    max_cells: int | None = None,
    keep_observed: bool | None = None,
    progress: Progress | None = None,
) -> tuple[Verdict, dict[str, Any]]:
    """Judge an estimator on a sample of the data that it is to impute; the fitted one is left as it is.

    Returns
    -------
    The verdict, and its record for ``uns["imputome"][key]["verdict"]``.

    Raises
    ------
    InputError
        Nothing of the data can be held out, see `imputome.trust.evidence.check_possible`.
    """
    rng = np.random.default_rng(seed_for("check", base=seed))
    controls = control_estimators(data.kind, seed, estimator.link)
    name = default_key(estimator)
    evidence = gather(
        data,
        predicting(estimator),
        method=JUDGED if name in controls else name,
        controls={name: predicting(control) for name, control in controls.items()},
        reference=REFERENCE[data.kind],
        rng=rng,
        labels=labels,
        link=estimator.link,
        n_splits=n_splits,
        max_cells=max_cells,
        keep_observed=keep_observed,
        progress=progress,
    )
    verdict = judge(evidence)
    return verdict, record(evidence, verdict, seed=seed)


def check_run(
    run: Run, adata: AnnData, *, labels: str | Iterable[str] = (), seed: int = 0, progress: Progress | None = None
) -> Run:
    """The run with the verdict on it in its record."""
    data, names = run.imputation.data, getattr(run.estimator, "covariate_names_", [])
    if names:
        data = replace(data, covariates=covariate_columns(adata, names))
    columns = label_columns(adata, labels)
    _, found = check(data, run.estimator, labels=columns, seed=seed, keep_observed=run.keep_observed, progress=progress)
    return replace(run, further={**run.further, "verdict": found})


def refuse_uncheckable(report: InputReport) -> None:
    """Refuse, before any work, input of which nothing can be held out."""
    check_size(*report.shape)
    if report.kind == "counts" and report.state != "counts":
        raise InputError(
            f"the check hides molecules, and {report.where} looks {report.state}: pass the layer with the raw counts, "
            "or leave the check out"
        )


def brief(record: dict[str, Any]) -> dict[str, Any]:
    """A record of a result without the long tables of its verdict, for a summary."""
    kept = dict(record)
    if "verdict" in kept:
        names = ("verdict", "reasons", "failed", "rule", "figures", "cells", "fits", "seconds")
        kept["verdict"] = {name: kept["verdict"][name] for name in names}
    if "race" in kept:
        kept["race"] = {**kept["race"], "candidates": kept["race"]["candidates"].to_dict("records")}
    return kept


def cost(report: InputReport, estimator: Imputer, *, n_splits: int = N_SPLITS) -> str:
    """What the check is going to do, in a sentence for a person."""
    n_controls = len(controls(report.kind))
    n = report.shape[0]
    rows = "cells" if report.kind == "counts" else "samples"
    more = number_of_fits(report.kind, n_splits, 0)
    return (
        f"the check fits {estimator.name} {more} more times, and {n_controls} controls {n_splits} times, on "
        f"{min(MAX_CELLS[report.kind], n):,} of {n:,} {rows}"
    )


def label_columns(adata: AnnData, names: str | Iterable[str]) -> dict[str, Any]:
    """Columns of ``obs`` whose labels are to be looked at."""
    found = {}
    for name in [names] if isinstance(names, str) else names:
        if name not in adata.obs:
            there = ", ".join(map(str, adata.obs.columns)) or "none"
            raise InputError(f"obs has no column {name!r} to check for mixing; columns: {there}")
        values = adata.obs[name]
        if values.nunique() < 2:
            raise InputError(f"obs[{name!r}] has fewer than two labels: name another column, or none")
        if values.nunique() > max(2, adata.n_obs // PER_LABEL):
            raise InputError(
                f"obs[{name!r}] has {values.nunique():,} different values in {adata.n_obs:,} cells, too many for "
                "labels: name another column, or none"
            )
        found[name] = np.asarray(values.astype(object))
    return found
