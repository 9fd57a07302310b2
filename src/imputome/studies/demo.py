"""The demo: hide part of a real dataset, impute it with ``ialm`` and the controls, score them side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from imputome.evaluation.splits import make_split
from imputome.evaluation.streaming import score_hidden, score_thinned
from imputome.methods import get, info
from imputome.methods.base import as_data

# ialm as published, and stopped where held-out entries are matched best: noisy counts need not be matched exactly
METHODS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("no_imputation", "no_imputation", {}),
    ("random", "random", {}),
    ("gene_mean", "gene_mean", {}),
    ("gene_mean_posterior", "gene_mean_posterior", {}),
    ("poisson_nmf", "poisson_nmf", {}),
    ("ialm", "ialm", {}),
    ("ialm, stop=validated", "ialm", {"stop": "validated"}),
)
FRACTION = 0.1


@dataclass(frozen=True)
class Score:
    """One row of the demo's table; the two masking scores are taken over hidden nonzeros, the loss over all entries."""

    name: str
    control: bool
    poisson_loss: float
    total_ratio: float
    nrmse: float
    pearson: float
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """Scores, and truth and ``ialm``'s values at the hidden entries, for the picture."""

    scores: list[Score]
    truth: np.ndarray
    predicted: np.ndarray


def run_demo(X: sp.csr_array, *, seed: int = 0, progress: Callable[[float, str], None] | None = None) -> DemoResult:
    """Hide 10 % of the molecules and, apart from that, of the nonzeros of ``X`` (n, G); score every method on both.

    Held-out molecules judge all entries, so a method that fills true zeros pays for it. Hidden nonzeros are the papers'
    protocol: they judge only what was seen, and reward filling.
    """
    rng = np.random.default_rng(seed)
    data = as_data(X, kind="counts")
    thinned = make_split("thin", data, rng=rng, fraction=FRACTION)
    masked = make_split("random", data, rng=rng, fraction=FRACTION)
    scores, predicted = [], np.empty(0)
    for place, (label, method, params) in enumerate(METHODS):
        if progress is not None:
            progress(place / len(METHODS), label)
        begun = time.perf_counter()
        denoised = get(method)(**params).fit_transform(thinned.train)
        seconds = time.perf_counter() - begun
        molecules = score_thinned(denoised, thinned, metrics=["poisson_loss", "total_ratio"])
        filled = get(method)(**params).fit_transform(masked.train)
        entries = score_hidden(filled, masked, metrics=["nrmse", "pearson"])
        scores.append(Score(name=label, control=info(method).control, seconds=seconds, **molecules, **entries))
        if label == "ialm":
            predicted = filled.at(masked.i, masked.j, keep_observed=False)
    assert masked.truth is not None  # noqa: S101  (entries were hidden)
    return DemoResult(scores, masked.truth, predicted)
