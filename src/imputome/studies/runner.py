"""Running methods on data with hidden values: each dataset x split x trial x method gives rows of scores.

`run_study` hides values anew for each trial and fits each method on what is left. `run_trial` is for real values that
are split by rows: each method is fitted once per trial, on complete training rows, and the fitted method imputes the
test rows under every way to hide values. The controls are always among the methods.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation, Status
from imputome.core.imputer import Imputer
from imputome.core.memory import peak_memory
from imputome.core.scales import counts_to_scale
from imputome.errors import InputError
from imputome.evaluation.clinical import clinical_coefficients, concordance_index
from imputome.evaluation.metrics import METRICS
from imputome.evaluation.splits import SCHEMES, Split, make_split, scheme_options, seed_for
from imputome.evaluation.streaming import Units, score_hidden, score_thinned
from imputome.methods import Method, create
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS
from imputome.studies.inputs import Dataset, MethodSpec, Progress, parse_method, with_controls
from imputome.studies.results import Journal, key_of, table_of
from imputome.studies.spec import Hiding, non_defaults

if TYPE_CHECKING:
    import pandas as pd

    from imputome.evaluation.clustering import Clusterer

DOWNSTREAM = ("clustering", "leiden", "de")
TRIAL_METRICS = ("rmse", "mae", "pearson")
Scale = Literal["counts", "log1p"]


# -- one split for each trial ------------------------------------------------------------------------------------------
def run_study(
    datasets: Dataset | Sequence[Dataset],
    methods: Iterable[Method | MethodSpec],
    *,
    scheme: str = "thin",
    fraction: float | Sequence[float] | None = None,
    trials: int | Sequence[int] = 1,
    seed: int = 0,
    downstream: Iterable[str] = (),
    protocol: str = "honest",
    scale: Scale = "counts",
    details: bool = False,
    output: str | Path | None = None,
    options: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Hide values, impute them with each method and the controls, and score the imputed values.

    Parameters
    ----------
    datasets : Dataset or sequence of Dataset
        Each with its own name.
    methods : iterable of str, class, estimator or MethodSpec
        As `imputome.studies.inputs.parse_method` takes them.
    scheme : str, default="thin"
        How values are hidden: a name of ``imputome.evaluation.splits.SCHEMES``.
    fraction : float or sequence of float, optional
        Share of values to hide; by default that of the scheme.
    trials : int or sequence of int, default=1
        Number of repetitions, or their numbers. The seed of each is derived from ``seed``, the number of the trial, and
        the names of the dataset, the scheme and the fraction.
    seed : int, default=0
        See ``trials``.
    downstream : iterable of {"clustering", "leiden", "de"}, optional
        Analyses of the imputed matrix: clusters of k-means and of Leiden against the labels, and genes called
        differential between the first label and the rest, against the same test before values were hidden.
    protocol : {"honest", "as_published"}, default="honest"
        ``"as_published"`` normalises counts to the median library size before values are hidden, as the papers do.
        The training part then contains information about the hidden values, so the scheme is labelled leaky.
    scale : {"counts", "log1p"}, default="counts"
        Scale of the scores of hidden entries, see `imputome.evaluation.streaming.score_hidden`.
    details : bool, default=False
        Also record the numbers of ``status.details`` of each fit, under their names.
    output : str or Path, optional
        Table of results, .parquet or .csv. Rows are stored while the study runs, and an interrupted study continues
        from them; methods that failed are run again.
    options : dict, optional
        Options of the scheme.
    progress : callable, optional
        Called with the share of work done (0 to 1) and a short text.

    Returns
    -------
    DataFrame
        One row per score, with the columns `imputome.studies.results.COLUMNS`. A method that fails gives one row with
        the reason.

    Raises
    ------
    InputError
        A name is unknown, or the options do not fit the data or each other.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.core.data import as_data
    >>> from imputome.studies.inputs import Dataset
    >>> from imputome.studies.runner import run_study
    >>> counts = np.random.default_rng(0).poisson(3.0, size=(20, 8))
    >>> toy = Dataset("toy", as_data(counts, kind="counts"))
    >>> table = run_study(toy, ["ialm"])
    >>> {"ialm", "gene_mean"} <= set(table["method"])  # gene_mean is a control
    True
    >>> len(table[(table["method"] == "ialm") & (table["metric"] == "poisson_loss")])
    1
    """
    datasets = [datasets] if isinstance(datasets, Dataset) else list(datasets)
    downstream, options = tuple(downstream), dict(options or {})
    trials = range(trials) if isinstance(trials, int) else trials
    _check(datasets, scheme, downstream, protocol, trials, seed, scale)
    if fraction is None:
        fraction = scheme_options(scheme).get("fraction")  # None for a scheme that has no choice
    fractions = [fraction] if fraction is None or isinstance(fraction, int | float) else list(fraction)
    fractions = list(dict.fromkeys(fractions))
    specs = [parse_method(method) for method in methods]
    journal, rows = _stored(output)
    done = {key_of(row) for row in rows}
    clock = _Clock(progress, len(datasets) * len(fractions) * len(trials))
    leaky = protocol == "as_published"
    for dataset in datasets:
        data = _published(dataset.data) if leaky else dataset.data
        to_run = with_controls(specs, data.kind)
        settings = {
            "shape": data.shape,
            "known": int(data.observed_counts()[0].sum()),
            "downstream": downstream,
            **({} if scale == "counts" else {"scale": scale}),
            **({"details": True} if details else {}),
            **options,
        }
        split_options = dict(options)
        if "labels" in scheme_options(scheme) and dataset.labels is not None:
            split_options.setdefault("labels", dataset.labels)
        for share in fractions:
            for trial in trials:
                trial_seed = seed_for(dataset.name, scheme, share, trial, base=seed)
                base: dict[str, Any] = {"dataset": dataset.name, "scheme": f"{scheme} (leaky)" if leaky else scheme}
                base |= {"fraction": math.nan if share is None else float(share), "trial": trial, "seed": trial_seed}
                keys = [{**base, **_key_of_method(spec, settings)} for spec in to_run]
                todo = [(spec, key) for spec, key in zip(to_run, keys, strict=True) if key_of(key) not in done]
                clock.start_part(len(todo))
                if not todo:
                    continue
                rng = np.random.default_rng(trial_seed)
                split = make_split(scheme, data, rng=rng, fraction=share, **split_options)
                split = replace(split, leaky=leaky)
                for spec, key in todo:
                    clock.report(f"{dataset.name}, {spec.label}, trial {trial + 1}")
                    scored = _score_method(spec, split, dataset, downstream, trial_seed, scale, details)
                    new = [{**key, **row} for row in scored]
                    rows.extend(new)
                    done.add(key_of(key))
                    if journal is not None:
                        journal.append(new)
                    clock.step()
    return _finished(journal, rows)


def _stored(output: str | Path | None) -> tuple[Journal | None, list[dict[str, Any]]]:
    """The journal of an output, and its rows; those of failed methods are left out, so that they run again."""
    if output is None:
        return None, []
    journal = Journal(Path(output))
    return journal, [row for row in journal.rows() if row["status"] == "ok"]


def _finished(journal: Journal | None, rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = table_of(rows)
    if journal is not None:
        journal.finish(table)
    return table


def _key_of_method(spec: MethodSpec, settings: dict[str, Any]) -> dict[str, str]:
    """What distinguishes the computations on one split."""
    settings = {**settings, "after": spec.after} if spec.after else settings
    return {"method": spec.label, "parameters": spec.parameters, "options": json.dumps(settings, default=str)}


def _score_method(
    spec: MethodSpec,
    split: Split,
    dataset: Dataset,
    downstream: tuple[str, ...],
    seed: int,
    scale: Scale,
    details: bool,
) -> Iterator[dict[str, Any]]:
    """Fit, impute and score one method; a failure is a row with its reason."""
    start = time.perf_counter()
    common: dict[str, Any] = {"peak_bytes": 0, "status": "ok", "reason": ""}
    try:
        with peak_memory() as peak:
            result = _impute(spec, split, seed)
        common |= {"seconds": time.perf_counter() - start, "peak_bytes": peak()}
        common["reason"] = "" if result.status.converged else result.status.message
        scores = score_thinned(result, split) if split.test is not None else score_hidden(result, split, scale=scale)
        scores |= _downstream_scores(result, dataset, downstream, seed)
        if details:
            scores |= _numbers_in(result.status.details)
        for name, value in scores.items():
            yield {"metric": name, "value": float(value), **common}
    except Exception as error:  # a method may fail in any way: the study continues, and the table has the reason
        seconds = time.perf_counter() - start
        failed = {"seconds": seconds, "status": "failed", "reason": f"{type(error).__name__}: {error}"}
        yield {"metric": "", "value": math.nan, **common, **failed}


def _impute(spec: MethodSpec, split: Split, seed: int) -> Imputation:
    if isinstance(spec.method, str) and spec.method in REFERENCE_PREDICTIONS:
        return REFERENCE_PREDICTIONS[spec.method](split.train)
    estimator = create(spec.method, spec.params, random_state=seed % 2**31)
    if split.apply is None:
        result = estimator.fit_transform(split.train)
    else:
        result = estimator.fit(split.train).transform(split.apply)
    if spec.after:
        report = asdict(getattr(estimator, spec.after)(split.train))
        result.status.details.update({f"{spec.after}_{name}": value for name, value in report.items()})
    return result


def _numbers_in(details: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in details.items() if isinstance(value, int | float | np.number)}


def _downstream_scores(result: Imputation, dataset: Dataset, analyses: tuple[str, ...], seed: int) -> dict[str, float]:
    """Scores of analyses of the imputed matrix, which is made dense for them."""
    if not analyses or dataset.labels is None:
        return {}
    from imputome.evaluation.clustering import cluster_scores, expression_components
    from imputome.evaluation.expression import precision_recall_tnr, wilcoxon

    counts = result.data.kind == "counts"
    rows = dataset.data.obs_names.get_indexer(result.obs_names)  # a row split imputes only some rows
    labels = dataset.labels[rows]
    values = result.to_array(scale="normalized" if counts else None)
    scores: dict[str, float] = {}
    clusterers: dict[str, Clusterer] = {"clustering": "kmeans", "leiden": "leiden"}
    for analysis in [name for name in clusterers if name in analyses]:
        prefix = "leiden_" if analysis == "leiden" else ""
        with warnings.catch_warnings():  # if all cells are equal there is one cluster, and the scores show it
            warnings.simplefilter("ignore")
            embedding = expression_components(values, random_state=seed % 2**31) if counts else values
            agreement = cluster_scores(
                embedding=embedding, labels=labels, method=clusterers[analysis], random_state=seed % 2**31
            )
        scores |= {prefix + name: agreement[name] for name in ("ari", "ami", "nmi")}
    if "de" in analyses:
        groups = labels == np.unique(labels)[0]
        whole = counts_to_scale(dataset.data.block(rows), dataset.data.depth[rows, None], "normalized")
        tables = [wilcoxon(np.log1p(part), groups) for part in (whole, values)]
        called = [(table["p_adjusted"] < 0.05).to_numpy() for table in tables]
        scores |= precision_recall_tnr(truth=called[0], called=called[1])
    return scores


def _check(
    datasets: list[Dataset],
    scheme: str,
    downstream: tuple[str, ...],
    protocol: str,
    trials: Sequence[int],
    seed: int,
    scale: str,
) -> None:
    if scheme not in SCHEMES:
        raise InputError(
            f"there is no scheme {scheme!r}: choose one of {', '.join(SCHEMES)}",
            code="unknown-scheme",
            parameter="scheme",
        )
    unknown = [name for name in downstream if name not in DOWNSTREAM]
    if unknown:
        raise InputError(
            f"there is no downstream analysis {unknown[0]!r}: choose from {', '.join(DOWNSTREAM)}",
            code="parameter-value",
            parameter="downstream",
        )
    if downstream and any(dataset.labels is None for dataset in datasets):
        raise InputError(
            "downstream analyses compare with known classes: pass {labels}, a column of obs",
            code="labels-needed",
            labels=...,
        )
    if protocol not in ("honest", "as_published"):
        raise InputError(
            f"protocol={protocol!r} is neither 'honest' nor 'as_published'",
            code="parameter-value",
            parameter="protocol",
        )
    if protocol == "as_published" and scheme.startswith("thin"):
        raise InputError(
            "protocol='as_published' normalises the counts first, and normalised counts cannot be thinned: "
            "pass {scheme}",
            code="protocol-scheme",
            scheme="random",
        )
    if scale not in ("counts", "log1p") or (scale == "log1p" and scheme.startswith("thin")):
        raise InputError(
            f"{scheme} cannot be scored with scale={scale!r}: use 'counts', or 'log1p' for a scheme that hides entries",
            code="scale-scheme",
            parameter="scale",
        )
    if not trials or seed < 0:
        raise InputError(
            f"trials={len(trials)} must be at least 1, and seed={seed} must not be negative", code="parameter-value"
        )
    names = [dataset.name for dataset in datasets]
    if len(set(names)) < len(names):
        raise InputError(
            f"two datasets have the name {max(names, key=names.count)!r}: give each its own", code="dataset-twice"
        )
    if downstream and not all(dataset.data.obs_names.is_unique for dataset in datasets):
        raise InputError(
            "downstream analyses find cells by name, and some names occur twice: make them unique first",
            code="names-not-unique",
        )
    if "de" in downstream and any(dataset.data.kind == "real" for dataset in datasets):
        raise InputError(
            "the downstream analysis 'de' is for counts: leave it out for real values",
            code="downstream-kind",
            parameter="downstream",
        )


def _published(data: Data) -> Data:
    """Counts times the median library size over their own, computed with the values that will be hidden."""
    import scipy.sparse as sp

    if data.kind != "counts":
        raise InputError("protocol='as_published' is for counts", code="protocol-kind", parameter="protocol")
    depth = data.depth
    scale = np.divide(np.median(depth[depth > 0]), depth, out=np.ones_like(depth), where=depth > 0)
    return replace(data, X=sp.csr_array(sp.diags_array(scale) @ data.X), library_size=None)


class _Clock:
    """Reports the share of work done and an estimate of the time left."""

    def __init__(self, progress: Progress | None, parts: int) -> None:
        self.progress, self.parts = progress, parts
        self.part, self.steps, self.steps_done = 0, 1, 0
        self.start = time.monotonic()

    def start_part(self, steps: int) -> None:
        self.part += 1
        self.steps, self.steps_done = max(1, steps), 0

    def step(self) -> None:
        self.steps_done += 1

    def report(self, text: str) -> None:
        if self.progress is None:
            return
        share = (self.part - 1 + self.steps_done / self.steps) / self.parts
        left = (time.monotonic() - self.start) * (1 - share) / share if share > 0 else math.nan
        self.progress(share, text + ("" if math.isnan(left) else f", about {left:.0f} s left"))


# -- one fit for all splits of a trial ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tables:
    """What some schemes need in addition to the data.

    Attributes
    ----------
    gc : dict of str to float
        GC content by gene.
    coverage : dict of str to (sites, samples) array
        Numbers of reads by name of a dataset; coverages are drawn from them.
    """

    gc: dict[str, float] = field(default_factory=dict)
    coverage: dict[str, np.ndarray] = field(default_factory=dict)


def read_gc(path: str) -> dict[str, float]:
    """GC content by gene, from a CSV file with a header and two columns.

    Raises
    ------
    InputError
        The file cannot be read, or its second column does not hold numbers.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, index_col=0)
        return table.iloc[:, 0].astype(np.float64).to_dict()
    except (OSError, ValueError, IndexError) as error:
        raise InputError(
            f"{path} is not a CSV file with a header and two columns, gene and GC content: {error}",
            code="gc-file",
            parameter="gc",
        ) from error


def coverage_like(reads: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A coverage matrix drawn from a sequenced one.

    Each feature takes a site of ``reads`` at random, and each row takes at this site the reads of a random sample. So
    the differences between sites, and those within a site, are kept.

    Parameters
    ----------
    reads : (sites, samples) array
        Numbers of reads.
    shape : (n, G)
        Shape of the result.
    rng : Generator
        Random numbers.

    Returns
    -------
    (n, G) array
    """
    n, G = shape
    sites = rng.integers(len(reads), size=G)
    return reads[sites, rng.integers(reads.shape[1], size=(n, G))]  # (n, G)


def options_of(split: Hiding, tables: Tables) -> str:
    """What a split is stored under in the column ``options``: all that decides which values it hides."""
    settings = non_defaults(split)
    settings.pop("datasets", None)
    if split.scheme == "high_gc":
        settings["gc"] = hashlib.blake2b(json.dumps(sorted(tables.gc.items())).encode(), digest_size=5).hexdigest()
    return json.dumps(settings, sort_keys=True)


def run_trial(
    dataset: Dataset,
    methods: Iterable[Method | MethodSpec],
    splits: Sequence[Hiding],
    *,
    trial: int,
    seed: int = 0,
    tables: Tables | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Split the rows, fit each method once on the training rows, and score it under every way to hide test values.

    Fits take most of the time, and all schemes leave the training rows complete, so one fit serves all splits. Errors
    are in units of the standard deviation of the feature in the training rows; test rows do not enter the unit.

    Parameters
    ----------
    dataset : Dataset
        Real values without gaps, with unique row names.
    methods : iterable of str, class, estimator or MethodSpec
        As for `run_study`.
    splits : sequence of Hiding
        Schemes for real values. All use the same split of the rows, stratified by the labels if there are any.
    trial : int
        Number of the trial; its seed is derived from it, ``seed`` and the name of the dataset.
    seed : int, default=0
        See ``trial``.
    tables : Tables, optional
        GC contents and coverages, for the schemes that need them.
    output : str or Path, optional
        Table of results. An interrupted trial, or one with new splits, continues from it: a method is fitted again only
        if one of its rows is missing.
    progress : callable, optional
        As for `run_study`.

    Returns
    -------
    DataFrame
        Rows as from `run_study`, with ``rmse``, ``mae`` (which paper 003 calls RMSE) and ``pearson`` over the hidden
        entries; ``share_hidden`` of the test values; with clinical columns ``spearman_concordance`` and
        ``cox_concordance``, the `concordance_index` between coefficients from the imputed and from the true values
        (test rows, features with a hidden entry); ``fit_seconds``, ``apply_seconds``, and the numbers of the fit.

    Raises
    ------
    InputError
        Values are missing before any are hidden, row names are not unique, or a scheme finds nothing to hide.
    """
    tables = tables or Tables()
    if dataset.data.kind != "real" or np.isnan(dataset.data.known_values()).any():
        raise InputError(
            f"{dataset.name}: these splits need real values without gaps, and it has counts or gaps",
            code="data-not-complete",
        )
    if not dataset.data.obs_names.is_unique:
        raise InputError(
            f"{dataset.name}: rows are found by name, and some names occur twice: make them unique first",
            code="names-not-unique",
        )
    specs = with_controls([parse_method(method) for method in methods], "real")
    journal, rows = _stored(output)
    done = {key_of(row) for row in rows}
    trial_seed = seed_for(dataset.name, "rows", trial, base=seed)
    hidden: _HiddenValues | None = None
    for place, spec in enumerate(specs):
        method = {"dataset": dataset.name, "method": spec.label, "parameters": spec.parameters}
        keys: dict[str, dict[str, Any]] = {}
        for split in splits:
            key = {**method, "scheme": split.label, "options": options_of(split, tables)}
            keys[split.label] = {**key, "fraction": _fraction(split), "trial": trial, "seed": trial_seed}
        todo = [label for label, key in keys.items() if key_of(key) not in done]
        if not todo:
            continue
        if progress is not None:
            progress(place / len(specs), f"{dataset.name}, {spec.label}, trial {trial + 1}")
        hidden = hidden or _HiddenValues(dataset, splits, tables, trial_seed)
        new = [{**keys[label], **row} for label, row in _score_fit(spec, hidden, todo, trial_seed)]
        rows.extend(new)
        if journal is not None:
            journal.append(new)
    return _finished(journal, rows)


def _fraction(split: Hiding) -> float:
    return float(scheme_options(split.scheme)["fraction"] if split.fraction is None else split.fraction)


class _Masked(NamedTuple):
    """Test rows with NaN, the positions of these, and their share of the values."""

    rows: Data
    i: np.ndarray
    j: np.ndarray
    share: float


class _HiddenValues:
    """The splits of one trial and the truth for their scores, computed once for all methods."""

    def __init__(self, dataset: Dataset, splits: Sequence[Hiding], tables: Tables, seed: int) -> None:
        self.masked: dict[str, _Masked] = {}
        for split in splits:
            # each scheme draws the rows first, so with the same seed all have the same test rows
            made = make_split(
                split.scheme,
                dataset.data,
                rng=np.random.default_rng(seed),
                **{"fraction": _fraction(split), "labels": dataset.labels, **split.options},
                **_scheme_inputs(dataset, split, tables, seed),
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
        """Scores of predictions, one for each hidden entry."""
        i, j = masked.i, masked.j
        predicted = self.units.of(prediction, j)
        scores = {name: METRICS[name].function(truth=self.truth[i, j], prediction=predicted) for name in TRIAL_METRICS}
        scores["share_hidden"] = masked.share
        if self.coefficients:
            features = np.unique(j)
            imputed = self.truth.copy()
            imputed[i, j] = predicted
            for name, coefficients in clinical_coefficients(values=imputed[:, features], **self.clinical).items():
                truth = self.coefficients[name][features]
                scores[f"{name}_concordance"] = concordance_index(truth=truth, prediction=coefficients)
        return scores


def _scheme_inputs(dataset: Dataset, split: Hiding, tables: Tables, seed: int) -> dict[str, Any]:
    """What a scheme needs in addition to the data."""
    if split.scheme == "high_gc":
        return {"gc": tables.gc}
    if split.scheme == "low_coverage":
        rng = np.random.default_rng(seed_for("coverage", base=seed))
        return {"coverage": coverage_like(tables.coverage[split.coverage], dataset.data.shape, rng)}
    return {}


class _Attempt(NamedTuple):
    """The result of a computation, its cost, and the reason if it failed."""

    value: Any
    seconds: float
    peak: int
    reason: str


def _attempt(work: Callable[[], Any]) -> _Attempt:
    start = time.perf_counter()
    value, reason = None, ""
    with peak_memory() as peak:
        try:
            value = work()
        except Exception as error:  # a method may fail in any way: the study continues, and the table has the reason
            reason = f"{type(error).__name__}: {error}"
    return _Attempt(value, time.perf_counter() - start, peak(), reason)


def _fit(spec: MethodSpec, train: Data, seed: int) -> tuple[Imputer, Status]:
    estimator = create(spec.method, spec.params, random_state=seed % 2**31)
    return estimator, estimator.fit_transform(train).status


def _score_fit(
    spec: MethodSpec, hidden: _HiddenValues, labels: Sequence[str], seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(label of a split, row): fit once, then impute and score each split."""
    fit = _attempt(lambda: _fit(spec, hidden.train, seed))
    for label in labels:
        steps = [fit, *([] if fit.reason else _impute_and_score(fit.value[0], hidden, hidden.masked[label]))]
        common: dict[str, Any] = {"seconds": sum(step.seconds for step in steps[:2])}
        common["peak_bytes"] = max(step.peak for step in steps)
        if steps[-1].reason:
            failed = {"status": "failed", "reason": steps[-1].reason}
            yield label, {"metric": "", "value": math.nan, **common, **failed}
            continue
        status: Status = fit.value[1]
        common |= {"status": "ok", "reason": "" if status.converged else status.message}
        times = {"fit_seconds": fit.seconds, "apply_seconds": steps[1].seconds}
        for name, value in {**_numbers_in(status.details), **times, **steps[-1].value}.items():
            yield label, {"metric": name, "value": float(value), **common}


def _impute_and_score(estimator: Imputer, hidden: _HiddenValues, masked: _Masked) -> list[_Attempt]:
    imputed = _attempt(lambda: estimator.transform(masked.rows).at(masked.i, masked.j, keep_observed=False))
    return [imputed] if imputed.reason else [imputed, _attempt(lambda: hidden.scores(imputed.value, masked))]
