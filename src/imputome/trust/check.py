"""The check of an imputation: the method and controls are fitted again with values held out, and it gets a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.stored import StoredCounts
from imputome.errors import InputError, Message
from imputome.evaluation.splits import seed_for
from imputome.methods import REFERENCE, controls, create
from imputome.result.layout import default_key
from imputome.result.record import Verdict
from imputome.trust.evidence import MAX_CELLS, N_SPLITS, Predict, check_size, features_used, gather, number_of_fits
from imputome.trust.verdict import verdict_of

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.core.data import Data
    from imputome.core.imputation import Imputation
    from imputome.core.imputer import Imputer
    from imputome.inspection.state import InputReport
    from imputome.result.run import Progress, Run

MIN_CELLS_PER_LABEL = 3  # on average
MIN_EXPECTED = 100  # molecules of a gene that a label without any should have, and that each of the others has
THIS_IMPUTATION = "this imputation"  # name of the method in the tables where a control has the same name


def predicting(estimator: Imputer) -> Predict:
    """A callable that fits a fresh copy of the estimator and imputes the data that it was fitted to."""

    def predict(data: Data) -> Imputation:
        fresh = estimator.clone()
        fresh.link = estimator.link
        return fresh.fit_transform(data)

    return predict


def control_estimators(kind: str, seed: int, link: str = "identity") -> dict[str, Imputer]:
    """The controls for one kind of data, unfitted, by name.

    They are on the link on which errors are measured. The mean of heavy-tailed values is far from the mean of their
    arcsinh, so every method that centres on the latter would beat a control without the link, on pure noise too.
    """
    estimators = {name: create(name, random_state=seed) for name in controls(kind)}  # type: ignore[arg-type]
    for estimator in estimators.values():
        estimator.link = link
    return estimators


def check(
    data: Data,
    estimator: Imputer,
    *,
    labels: Mapping[str, Any] | None = None,
    seed: int = 0,
    n_splits: int = N_SPLITS,
    max_cells: int | None = None,
    keep_observed: bool | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Check an estimator, fitted or not, on a sample of the data that it is to impute; only copies of it are fitted.

    ``labels`` holds types or batches, arrays of shape (n,) by name. ``keep_observed`` says whether observed values are
    put back in what will be written (None: the method's default). Raises `InputError` if nothing of the data can be
    held out (`imputome.trust.evidence.check_possible`).
    """
    rng = np.random.default_rng(seed_for("check", base=seed))
    # with the seed of the method, so that a method that falls back to a control is exactly equal to it
    controls = control_estimators(data.kind, getattr(estimator, "random_state", seed), estimator.link)
    name = default_key(estimator)
    estimator = estimator.as_for(*data.shape)  # on a sample of the features it must not choose another way to learn
    evidence = gather(
        data,
        predicting(estimator),
        method=THIS_IMPUTATION if name in controls else name,
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
    return verdict_of(evidence, seed=seed)


def check_run(
    run: Run, data: Data, *, labels: Mapping[str, Any] | None = None, seed: int = 0, progress: Progress | None = None
) -> Run:
    """Check a run on the data that it was fitted to: the same run, with the verdict for its record."""
    keep = run.keep_observed
    verdict = check(data, run.estimator, labels=labels, seed=seed, keep_observed=keep, progress=progress)
    return replace(run, further={**run.further, "verdict": verdict})


def check_state(report: InputReport, *, automatic: bool = False) -> None:
    """Check, before any computation, that values of the input can be held out."""
    check_size(*report.shape)
    if report.kind == "counts" and report.state != "counts" and not report.state.endswith("_counts"):
        what, remedy = ("the check", "leave {check} out")
        if automatic:
            what, remedy = ("the choice of a method", "leave {method} out for the default method")
        raise InputError(
            f"{what} needs raw counts, but {report.where} looks {report.state}: pass {{layer}} with raw counts, or "
            f"{remedy}",
            code="not-integers",
            layer=...,
            **({"method": "auto"} if automatic else {"check": False}),
        )


def cost(report: InputReport, estimator: Imputer) -> str:
    """What the check is going to compute, in a sentence."""
    n_controls = len(controls(report.kind))
    n, G = report.shape
    used = features_used(report.kind, G)
    features = f" and {used:,} of {G:,} features" if used < G else ""
    rows = "cells" if report.kind == "counts" else "samples"
    fits = number_of_fits(report.kind, N_SPLITS, 0)
    once_more = f" ({REFERENCE['counts']} once more)" if report.kind == "counts" else ""
    return (
        f"the check fits {estimator.name} {fits} more times, and each of {n_controls} controls {N_SPLITS} times"
        f"{once_more}, on {min(MAX_CELLS[report.kind], n):,} of {n:,} {rows}{features}"
    )


def warn_of_absent_genes(data: Data, labels: Mapping[str, Any]) -> list[Message]:
    """A warning for each column of labels in which genes have no molecule in one label and many in all others.

    Such a gene may not have been measured in that batch. Then its zeros are no counts, and imputing them says nothing.
    A label is judged if it should have `MIN_EXPECTED` molecules at the lowest share that the gene has in the others.
    """
    if data.kind != "counts":
        return []
    import pandas as pd

    messages = []
    for name, values in labels.items():
        codes, categories = pd.factorize(values)  # -1 where there is no label
        total = _label_totals(data, codes, len(categories))
        library = total.sum(axis=1, keepdims=True)
        share = np.divide(total, library, out=np.zeros_like(total), where=library > 0)
        least = np.where(total >= MIN_EXPECTED, share, np.inf).min(axis=0)
        judged = (library * np.where(np.isfinite(least), least, 0)) >= MIN_EXPECTED
        absent = judged & (total == 0) & (~judged | (total == 0) | (total >= MIN_EXPECTED)).all(axis=0)
        genes = np.flatnonzero(absent.any(axis=0))
        if len(genes):
            where = [str(categories[code]) for code in np.flatnonzero(absent.any(axis=1))]
            text = (
                f"{len(genes):,} genes ({_some(data.var_names[genes])}) have no molecule in some labels of {name} "
                f"({_some(where)}) and {MIN_EXPECTED} or more in the others: if they were not measured there, "
                "their zeros are no counts, so leave these genes out"
            )
            messages.append(Message(text, code="absent-in-label"))
    return messages


def _label_totals(data: Data, codes: np.ndarray, n_labels: int) -> np.ndarray:
    """(n_labels, G) molecules of each gene in the cells of each label; ``codes`` are -1 where there is no label."""
    import scipy.sparse as sp

    total = np.zeros((n_labels, data.shape[1]))
    for rows, X in data.X.windows() if isinstance(data.X, StoredCounts) else [(slice(None), data.X)]:
        cells = np.flatnonzero(codes[rows] >= 0)
        members = sp.csr_array((np.ones(len(cells)), (codes[rows][cells], cells)), shape=(n_labels, X.shape[0]))
        total += (members @ X).toarray()
    return total


def _some(names: Iterable[Any]) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def label_columns(adata: AnnData, names: str | Iterable[str]) -> dict[str, Any]:
    """Columns of ``obs`` with labels for the check, as arrays of shape (n,) by name."""
    labels = {}
    for name in [names] if isinstance(names, str) else names:
        if name not in adata.obs:
            known = ", ".join(map(str, adata.obs.columns)) or "none"
            raise InputError(f"obs has no column {name!r}; columns: {known}", code="no-obs-column", parameter="labels")
        values = adata.obs[name]
        number, most = values.nunique(), max(2, adata.n_obs // MIN_CELLS_PER_LABEL)
        if not 2 <= number <= most:
            raise InputError(
                f"obs[{name!r}] has {number:,} labels, not 2 to {most:,}: name another column, or none",
                code="too-few-labels" if number < 2 else "too-many-labels",
                parameter="labels",
            )
        labels[name] = np.asarray(values.astype(object))
    return labels
