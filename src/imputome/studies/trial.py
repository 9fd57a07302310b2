"""One trial of real values: rows are split once, a method is fitted once, and imputes what every scheme hides.

Fitting is what costs, and all schemes leave the training rows complete: so each method learns from these once, and the
fitted one is given the test rows of every scheme. Errors are in units of the training rows' standard deviation of the
feature: nothing of the test rows enters the unit.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Status
from imputome.core.imputer import Imputer
from imputome.errors import InputError
from imputome.evaluation.clinical import clinical_coefficients, concordance_index
from imputome.evaluation.metrics import METRICS
from imputome.evaluation.splits import make_split, scheme_options, seed_for
from imputome.evaluation.streaming import Units
from imputome.methods import create
from imputome.studies.results import Journal, table_of
from imputome.studies.runner import Dataset, MethodSpec, Progress, key_of, numbers_of, peak_memory, with_controls
from imputome.studies.study import Hiding, told

if TYPE_CHECKING:
    import pandas as pd

SCORES = ("rmse", "mae", "pearson")


@dataclass(frozen=True)
class Tables:
    """What some schemes need beside the data.

    Attributes
    ----------
    gc : GC content by gene.
    coverage : name of a dataset -> (sites, samples) reads, from which coverages are drawn.
    """

    gc: dict[str, float] = field(default_factory=dict)
    coverage: dict[str, np.ndarray] = field(default_factory=dict)


def read_gc(path: str) -> dict[str, float]:
    """GC content by gene, of a CSV of two columns with a header.

    Raises
    ------
    InputError
        The file cannot be read, or its second column is no numbers.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, index_col=0)
        return table.iloc[:, 0].astype(np.float64).to_dict()
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path} is no CSV of two columns, gene and GC content, with a header: {error}") from error


def coverage_like(reads: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A made coverage matrix of the given shape, (n, G), drawn from a sequenced one, (sites, samples).

    Each feature takes the part of a site, and each row that of a sample at this site, both at random: how far reads
    differ between sites, and how far within one, stays.
    """
    n, G = shape
    sites = rng.integers(len(reads), size=G)
    return reads[sites, rng.integers(reads.shape[1], size=(n, G))]  # (n, G)


def options_of(split: Hiding, tables: Tables) -> str:
    """What its rows are known by in results, beside the label: all that decides which values are hidden."""
    story = told(split)
    story.pop("datasets", None)
    if split.scheme == "high_gc":
        story["gc"] = hashlib.blake2b(json.dumps(sorted(tables.gc.items())).encode(), digest_size=5).hexdigest()
    return json.dumps(story, sort_keys=True)


def run_trial(
    dataset: Dataset,
    methods: Iterable[MethodSpec],
    splits: Sequence[Hiding],
    *,
    trial: int,
    seed: int = 0,
    tables: Tables | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Split rows, fit every method once on the training rows, and score it under every way of hiding test values.

    Parameters
    ----------
    splits : schemes for real values; the rows of all are split alike, stratified by the labels if there are some.
    output : where rows are kept as they come: a trial that was interrupted or has new splits goes on from there, and
        a method is fitted again only where a row of it is missing.

    Returns
    -------
    Rows as of `imputome.studies.runner.run_study`: ``rmse``, ``mae`` (the form that paper 003 calls RMSE) and
    ``pearson`` over hidden entries in z units of the training rows; ``share_hidden`` of the test values;
    ``spearman_concordance`` and ``cox_concordance``, with clinical columns: `concordance_index` between the
    coefficients of what was imputed and of the truth (of z units, test rows only, features with a hidden entry);
    ``fit_seconds``, ``apply_seconds``, and the figures of the fit.

    Raises
    ------
    InputError
        Values are missing before any are hidden, row names are not unique, or a scheme finds nothing to hide.
    """
    tables = tables or Tables()
    if dataset.data.kind != "real" or np.isnan(dataset.data.known_values()).any():
        raise InputError(f"{dataset.name}: these splits hide real values of complete data, and it has counts or gaps")
    if not dataset.data.obs_names.is_unique:
        raise InputError(f"{dataset.name}: rows are found by name, and some names are not unique: make them so first")
    specs = with_controls(list(methods), "real")
    journal = None if output is None else Journal(Path(output))
    rows = [] if journal is None else [row for row in journal.rows() if row["status"] == "ok"]
    done = {key_of(row) for row in rows}
    trial_seed = seed_for(dataset.name, "rows", trial, base=seed)
    hidden: _Hidden | None = None
    for place, spec in enumerate(specs):
        keys = {split.label: _key_columns(dataset, spec, split, tables, trial, trial_seed) for split in splits}
        todo = [split.label for split in splits if key_of(keys[split.label]) not in done]
        if not todo:
            continue
        if progress is not None:
            progress(place / len(specs), f"{dataset.name}, {spec.label}, trial {trial + 1}")
        hidden = hidden or _Hidden(dataset, splits, tables, trial_seed)
        new = [{**keys[label], **row} for label, row in _rows_of(spec, hidden, todo, trial_seed)]
        rows.extend(new)
        if journal is not None:
            journal.append(new)
    table = table_of(rows)
    if journal is not None:
        journal.finish(table)
    return table


def _key_columns(
    dataset: Dataset, spec: MethodSpec, split: Hiding, tables: Tables, trial: int, trial_seed: int
) -> dict[str, Any]:
    return {
        **{"dataset": dataset.name, "method": spec.label, "parameters": spec.parameters, "scheme": split.label},
        **{"options": options_of(split, tables), "fraction": _fraction(split), "trial": trial, "seed": trial_seed},
    }


def _fraction(split: Hiding) -> float:
    return float(scheme_options(split.scheme)["fraction"] if split.fraction is None else split.fraction)


class _Masked(NamedTuple):
    """Test rows with NaN, where it was put, and the share of their values that this is."""

    rows: Data
    i: np.ndarray
    j: np.ndarray
    share: float


class _Hidden:
    """The splits of one trial, and what their scores need of the truth, made once for all methods."""

    def __init__(self, dataset: Dataset, splits: Sequence[Hiding], tables: Tables, seed: int) -> None:
        self.masked: dict[str, _Masked] = {}
        for split in splits:
            # the same seed each time: rows are what every scheme draws first, so they are the same
            made = make_split(
                split.scheme,
                dataset.data,
                rng=np.random.default_rng(seed),
                **{"fraction": _fraction(split), "labels": dataset.labels, **split.options},
                **_given(dataset, split, tables, seed),
            )
            assert made.apply is not None and made.i is not None and made.j is not None  # noqa: S101, PT018  (types)
            self.masked[split.label] = _Masked(made.apply, made.i, made.j, made.fraction)
            self.train, names = made.train, made.apply.obs_names
        self.units = Units(self.train)
        places = dataset.data.obs_names.get_indexer(names)
        self.truth = self.units.of(dataset.data.X[places])  # (n test, G)
        self.clinical = {name: column[places] for name, column in dataset.clinical.items()}
        self.coefficients = clinical_coefficients(values=self.truth, **self.clinical)

    def scores(self, prediction: np.ndarray, masked: _Masked) -> dict[str, float]:
        """Scores of flat predictions of the hidden entries."""
        i, j = masked.i, masked.j
        predicted = self.units.of(prediction, j)
        scores = {name: METRICS[name].function(truth=self.truth[i, j], prediction=predicted) for name in SCORES} | {
            "share_hidden": masked.share
        }
        if self.coefficients:
            features = np.unique(j)
            imputed = self.truth.copy()
            imputed[i, j] = predicted
            found = clinical_coefficients(values=imputed[:, features], **self.clinical)
            for name, coefficients in found.items():
                truth = self.coefficients[name][features]
                scores[f"{name}_concordance"] = concordance_index(truth=truth, prediction=coefficients)
        return scores


def _given(dataset: Dataset, split: Hiding, tables: Tables, seed: int) -> dict[str, Any]:
    """What a scheme needs beside the data."""
    if split.scheme == "high_gc":
        return {"gc": tables.gc}
    if split.scheme == "low_coverage":
        rng = np.random.default_rng(seed_for("coverage", base=seed))
        return {"coverage": coverage_like(tables.coverage[split.coverage], dataset.data.shape, rng)}
    return {}


class _Attempt(NamedTuple):
    """What came of a computation, its cost, and why nothing came of it."""

    value: Any
    seconds: float
    peak: int
    reason: str


def _attempt(work: Callable[[], Any]) -> _Attempt:
    begun = time.perf_counter()
    value, reason = None, ""
    with peak_memory() as peak:
        try:
            value = work()
        except Exception as error:  # whatever a method does, the study goes on and the table says what happened
            reason = f"{type(error).__name__}: {error}"
    return _Attempt(value, time.perf_counter() - begun, peak(), reason)


def _fitted(spec: MethodSpec, train: Data, seed: int) -> tuple[Imputer, Status]:
    estimator = create(spec.name, spec.params, random_state=seed % 2**31)
    return estimator, estimator.fit_transform(train).status


def _rows_of(spec: MethodSpec, hidden: _Hidden, todo: Sequence[str], seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(label of a split, row): fit once, then impute and score each."""
    fit = _attempt(lambda: _fitted(spec, hidden.train, seed))
    for label in todo:
        steps = [fit, *([] if fit.reason else _applied(fit.value[0], hidden, hidden.masked[label]))]
        common: dict[str, Any] = {"seconds": sum(step.seconds for step in steps[:2])}
        common["peak_bytes"] = max(step.peak for step in steps)
        if steps[-1].reason:
            failed = {"status": "failed", "reason": steps[-1].reason}
            yield label, {"metric": "", "value": math.nan, **common, **failed}
            continue
        status: Status = fit.value[1]
        common |= {"status": "ok", "reason": "" if status.converged else status.message}
        times = {"fit_seconds": fit.seconds, "apply_seconds": steps[1].seconds}
        for name, value in {**numbers_of(status.details), **times, **steps[-1].value}.items():
            yield label, {"metric": name, "value": float(value), **common}


def _applied(estimator: Imputer, hidden: _Hidden, masked: _Masked) -> list[_Attempt]:
    """Imputing and, if that worked, scoring."""
    imputed = _attempt(lambda: estimator.transform(masked.rows).at(masked.i, masked.j, keep_observed=False))
    return [imputed] if imputed.reason else [imputed, _attempt(lambda: hidden.scores(imputed.value, masked))]
