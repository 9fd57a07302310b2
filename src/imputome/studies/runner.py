"""Running methods on data with hidden values: each dataset x split x trial x method gives rows of scores.

`run_study` hides values anew for each trial and fits each method on what is left. `run_trial` is for real values that
are split by rows: each method is fitted once per trial, on complete training rows, and the fitted method imputes the
test rows under every way to hide values. The controls are always among the methods.
"""

from __future__ import annotations

import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation, Status
from imputome.core.imputer import Imputer
from imputome.core.memory import peak_memory
from imputome.core.small_files import read_small_text
from imputome.errors import InputError, Message
from imputome.evaluation import open_problems
from imputome.evaluation.clinical import clinical_coefficients, coefficient_differences, concordance_index
from imputome.evaluation.downstream import downstream_scores
from imputome.evaluation.known_truth import LOSS, SHARE, Limits
from imputome.evaluation.metrics import METRICS, OPEN_PROBLEMS, feature_rmse
from imputome.evaluation.outside import Outside, with_names_of
from imputome.evaluation.splits import (
    Split,
    check_kind_of_scheme,
    make_split,
    normalized_before,
    scheme_options,
    seed_for,
)
from imputome.evaluation.streaming import HiddenScale, Units, score_hidden, score_thinned
from imputome.methods import DEFAULT, Method, create, info
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS
from imputome.result.adapt import chosen_link
from imputome.result.run import Progress
from imputome.studies.external import External, check_names, check_record, check_split, check_study
from imputome.studies.inputs import Dataset, MethodSpec, as_text, digest, parse_method, with_controls
from imputome.studies.results import NEEDS_INTEGERS, TRIAL_METRICS, Journal, key_of
from imputome.studies.settings import PROTOCOLS, check_settings, stratifies
from imputome.studies.spec import Hiding, non_defaults

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


Scale = HiddenScale
COX_LIMIT = 1.0  # differences of Cox coefficients beyond it are of genes that nearly order the deaths


# -- one split for each trial ------------------------------------------------------------------------------------------
def run_study(
    datasets: Dataset | Sequence[Dataset],
    methods: Iterable[Method | MethodSpec],
    *,
    scheme: str = "thin",
    fraction: float | Sequence[float] | None = None,
    trials: int | Sequence[int] = 1,
    seed: int = 0,
    downstream: str | Iterable[str] = (),
    protocol: str = "honest",
    scale: Scale = "counts",
    transform: str | None = None,
    details: bool = False,
    output: str | Path | None = None,
    options: dict[str, Any] | None = None,
    progress: Progress | None = None,
    tell: Callable[[Message], None] | None = None,
    external: Sequence[Outside] = (),
    masked: AnnData | None = None,
    controls: bool = True,
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
    downstream : str or iterable of {"clustering", "leiden", "de"}, optional
        Analyses of the imputed matrix: clusters of k-means and of Leiden against the labels, and genes called
        differential between the first label and the rest, against the same test before values were hidden.
    protocol : {"honest", "as_published", "open_problems"}, default="honest"
        ``"as_published"`` normalises counts to the median library size before values are hidden, as the papers do.
        The training part then contains information about the hidden values, so the scheme is labelled leaky.
        ``"open_problems"`` gives the two scores of that benchmark, one of them as published and corrected, beside its
        controls (`imputome.evaluation.open_problems`); it is for the scheme thin, and splits off a tenth.
    scale : {"counts", "log1p"}, default="counts"
        Scale of the scores of hidden entries, see `imputome.evaluation.streaming.score_hidden`.
    transform : {"asinh", "clip", "logit", "none"}, optional
        Transform on which real values are imputed, by methods and controls alike, and on which ``rmse_sd`` is measured.
        By default the one that `imputome.impute` would take for the training part; the column ``transform`` says which.
    details : bool, default=False
        Also record the numbers of ``status.details`` of each fit, under their names.
    output : str or Path, optional
        Table of results, .parquet or .csv. Rows are stored while the study runs, and an interrupted study continues
        from them; methods that failed are run again.
    options : dict, optional
        Options of the scheme.
    progress : callable, optional
        Called with the share of work done (0 to 1) and a short text.
    tell : callable, optional
        Called with what the user should know; by default it becomes a warning.
    external : sequence of Outside, optional
        What other tools made of ``masked``, to be scored beside the methods. There is then one data set and one trial,
        and values are hidden as `imputome.evaluation.masked.mask` hides them, from ``seed`` itself and in all rows.
    masked : AnnData, optional
        The masked data that these tools were given; refused if it does not hide the same values.
    controls : bool, default=True
        Whether the standard controls are run too.

    Returns
    -------
    DataFrame
        One row per score, with the columns `imputome.studies.results.COLUMNS`. A method that fails gives one row with
        the status ``"failed"`` and the reason. The status is ``"needs integers"`` where a method that splits molecules
        (`gene_mean_posterior`, every posterior step) is given counts that are not integers.

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
    downstream = (downstream,) if isinstance(downstream, str) else tuple(downstream)
    options = dict(options or {})
    trials = range(trials) if isinstance(trials, int) else list(dict.fromkeys(trials))
    if not trials or seed < 0:
        raise InputError(
            f"trials={len(trials)} must be at least 1, and seed={seed} must not be negative", code="parameter-value"
        )
    fractions = check_settings(scheme, fraction, downstream, protocol, transform)
    _check(datasets, scheme, downstream, protocol, scale, transform)
    specs = [parse_method(method) for method in methods]
    if external:
        check_study(datasets, fractions, trials, protocol, masked)
        check_names(external)
        check_record(masked, scheme=scheme, fraction=fractions[0], seed=seed, options=options)
        external = [with_names_of(each, masked) for each in external]
        if datasets[0].data.kind == "real":
            options["rows"] = "all"
    journal = Journal(output)
    report = _with_time_left(progress)
    told: set[str] = set()  # names of datasets
    parts, part = len(datasets) * len(fractions) * len(trials), 0
    leaky, benchmark = protocol == "as_published", protocol == OPEN_PROBLEMS
    for dataset in datasets:
        data = dataset.data
        every = with_controls(specs, data.kind, protocol) if controls else specs
        to_run: list[MethodSpec | External] = [*every, *map(External, external)]
        settings = {
            "shape": data.shape,
            "known": int(data.observed_counts()[0].sum()),
            "downstream": downstream,
            **({} if scale == "counts" else {"scale": scale}),
            **({"library": "before hiding"} if leaky else {}),
            **({"details": True} if details else {}),
            **({"transform": transform or "auto"} if data.kind == "real" else {}),
            **options,
            **dataset.identity(),
        }
        for share, trial in itertools.product(fractions, trials):
            trial_seed = seed if external else seed_for(dataset.name, scheme, share, trial, base=seed)
            base: dict[str, Any] = {"dataset": dataset.name, "scheme": scheme + PROTOCOLS[protocol]}
            base |= {"fraction": math.nan if share is None else float(share), "trial": trial, "seed": trial_seed}
            todo = []
            for spec in to_run:
                after = {"after": spec.after} if spec.after else {}
                key = {**base, "method": spec.label, "parameters": spec.parameters}
                key["options"] = json.dumps({**settings, **after}, default=as_text)
                if key_of(key) not in journal.done:
                    todo.append((spec, key))
            part += 1
            if not todo:
                continue
            split = drawn_split(dataset, scheme, share, seed=trial_seed, protocol=protocol, options=options)
            if masked is not None:
                check_split(masked, split, scheme=scheme, fraction=share, seed=seed)
            split = open_problems.benchmark_split(split) if benchmark else split
            limits = None
            if dataset.truth is not None and scheme == "thin" and protocol == "honest":
                limits = dataset.truth.limits(split, random_state=trial_seed % 2**31)
            link, messages = chosen_transform(split.train, transform)
            if masked is not None:
                todo = [(spec.of(split) if isinstance(spec, External) else spec, key) for spec, key in todo]
                results = [spec.result for spec, _ in todo if isinstance(spec, External)]
                messages = [*messages, *(each for result in results if result for each in result.messages)]
            if messages and dataset.name not in told:
                told.add(dataset.name)
                for message in messages:
                    (tell or _warn)(message)
            for place, (spec, key) in enumerate(todo):
                report((part - 1 + place / len(todo)) / parts, f"{dataset.name}, {spec.label}, trial {trial + 1}")
                metrics = open_problems.SCORES if benchmark else None
                rows = _score_method(
                    spec, split, dataset, downstream, trial_seed, scale, link, details, metrics, limits
                )
                if isinstance(spec, External):  # what it cost is not known here
                    rows = ({**row, "seconds": math.nan, "peak_bytes": math.nan} for row in rows)
                used = {"transform": spec.link or link if data.kind == "real" else ""}
                journal.append([{**key, **used, **row} for row in rows])
    return journal.finish()


def drawn_split(
    dataset: Dataset, scheme: str, fraction: float | None, *, seed: int, protocol: str, options: dict[str, Any]
) -> Split:
    """The split of one trial, whose seed `seed_for` derives; test rows are stratified by the labels of the data set."""
    if dataset.labels is not None and stratifies(scheme, options):
        options = {"labels": dataset.labels, **options}
    split = make_split(scheme, dataset.data, rng=np.random.default_rng(seed), fraction=fraction, **options)
    return normalized_before(split, dataset.data) if protocol == "as_published" else split


def chosen_transform(train: Data, transform: str | None) -> tuple[str, list[Message]]:
    """The transform that `imputome.impute` would take for a training part, and what the user should know of it.

    It is the one of methods that are no controls. Controls are given the same: errors on one transform, of values that
    were imputed on another, would differ for this reason alone.
    """
    return chosen_link(train, info(DEFAULT[train.kind]), transform)


def _warn(message: Message) -> None:
    warnings.warn(message, stacklevel=3)


def _with_time_left(progress: Progress | None) -> Progress:
    """``progress``, with an estimate of the time left at the end of its text."""
    start = time.monotonic()

    def report(share: float, text: str) -> None:
        if progress is not None:
            left = (time.monotonic() - start) * (1 - share) / share if share > 0 else math.nan
            progress(share, text if math.isnan(left) else f"{text}, about {left:.0f} s left")

    return report


class Step(NamedTuple):
    """The result of a part of a computation, its cost, and the reason if it failed."""

    value: Any
    seconds: float
    peak: int
    reason: str
    failure: str = "failed"  # status of a step with a reason


def attempt(work: Callable[[], Any]) -> Step:
    """The result of ``work``, or why it failed, and what it cost."""
    start = time.perf_counter()
    value, reason, failure = None, "", "failed"
    with peak_memory() as peak:
        try:
            value = work()
        except Exception as error:  # a method may fail in any way: the study continues, and the table has the reason
            reason = f"{type(error).__name__}: {error}"
            if getattr(error, "code", "") == "not-integers":  # right method, other data
                reason, failure = "it needs molecules (integers), and these values are normalised", NEEDS_INTEGERS
    return Step(value, time.perf_counter() - start, peak(), reason, failure)


def score_rows(
    work: Sequence[Step], scored: Step | None = None, status: Status | None = None
) -> Iterator[dict[str, Any]]:
    """One row per score, or one row with the reason for which the last step failed; the cost is that of ``work``."""
    last = scored or work[-1]
    cost = {"seconds": sum(step.seconds for step in work), "peak_bytes": max(step.peak for step in work)}
    if last.reason or status is None:
        yield {"metric": "", "value": math.nan, **cost, "status": last.failure, "reason": last.reason}
        return
    reason = "" if status.converged and not status.details.get("replaced") else status.message
    for name, value in last.value.items():
        yield {"metric": name, "value": float(value), **cost, "status": "ok", "reason": reason}


def _score_method(
    spec: MethodSpec | External,
    split: Split,
    dataset: Dataset,
    analyses: tuple[str, ...],
    seed: int,
    scale: Scale,
    link: str,
    details: bool,
    metrics: Sequence[str] | None,
    limits: Limits | None,
) -> Iterator[dict[str, Any]]:
    """Fit, impute and score one method."""

    def score() -> dict[str, float]:
        if split.test is not None:
            scores = score_thinned(result, split, metrics=metrics)
        else:
            scores = score_hidden(result, split, scale=scale, link_name=link)
        if limits is not None:
            scores[SHARE] = limits.share(scores[LOSS])
        scores |= _downstream_scores(result, dataset, analyses, seed)
        return scores | (_numbers_in(result.status.details) if details else {})

    imputed = attempt(lambda: impute_split(spec, split, seed, link))
    if imputed.reason:
        return score_rows([imputed])
    result: Imputation = imputed.value
    return score_rows([imputed], attempt(score), result.status)


def impute_split(spec: MethodSpec | External, split: Split, seed: int, link: str) -> Imputation:
    """Fit a method on the training part of a split, and impute the values that are hidden in it."""
    if isinstance(spec, External):
        return spec.imputation
    if isinstance(spec.method, str) and spec.method in REFERENCE_PREDICTIONS:
        return REFERENCE_PREDICTIONS[spec.method](split.train)
    if spec.method == open_problems.PERFECT:
        return open_problems.perfect_denoising(split)
    estimator = _estimator(spec, seed, link)
    if split.apply is None:
        result = estimator.fit_transform(split.train)
    else:
        result = estimator.fit(split.train).transform(split.apply)
    if spec.after:
        report = asdict(getattr(estimator, spec.after)(split.train))
        result.status.details.update({f"{spec.after}_{name}": value for name, value in report.items()})
    return result


def _estimator(spec: MethodSpec, seed: int, link: str) -> Imputer:
    estimator = create(spec.method, spec.params, random_state=seed % 2**31)
    estimator.link = spec.link or link
    return estimator


def _numbers_in(details: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in details.items() if isinstance(value, int | float | np.number)}


def _downstream_scores(result: Imputation, dataset: Dataset, analyses: tuple[str, ...], seed: int) -> dict[str, float]:
    """Scores of analyses of the imputed matrix."""
    if not analyses or dataset.labels is None:
        return {}
    rows = dataset.data.obs_names.get_indexer(result.obs_names)  # a row split imputes only some rows
    return downstream_scores(
        result,
        analyses,
        labels=dataset.labels[rows],
        differential=dataset.differential,
        before=dataset.data.subset(rows=rows),
        random_state=seed % 2**31,
    )


def _check(
    datasets: list[Dataset], scheme: str, downstream: tuple[str, ...], protocol: str, scale: str, transform: str | None
) -> None:
    if downstream and any(dataset.labels is None for dataset in datasets):
        raise InputError("downstream analyses need known classes: pass {labels}", code="labels-needed", labels=...)
    for dataset in datasets:
        check_kind_of_scheme(scheme, dataset.data.kind)
        if protocol != "honest" and dataset.data.kind != "counts":
            raise InputError(
                "{protocol} is for counts: leave it out for real values", code="protocol-kind", protocol=protocol
            )
        if transform not in (None, "none") and dataset.data.kind == "counts":
            text = f"the transform {transform} is for real values, and these are counts: leave {{transform}} out"
            raise InputError(text, code="transform-needs-real", transform=...)
    if scale not in ("counts", "log1p", "median") or (scale != "counts" and scheme.startswith("thin")):
        text = f"{scheme} cannot be scored with scale={scale!r}: use 'counts', or another scale if entries are hidden"
        raise InputError(text, code="scale-scheme", parameter="scale")
    names = [dataset.name for dataset in datasets]
    if len(set(names)) < len(names):
        raise InputError(
            f"two datasets are called {max(names, key=names.count)!r}: give each once, under its own name",
            code="dataset-twice",
        )
    if downstream and not all(dataset.data.obs_names.is_unique for dataset in datasets):
        raise InputError("downstream analyses find cells by name: make the names unique", code="names-not-unique")
    if "de" in downstream and any(dataset.data.kind == "real" for dataset in datasets):
        text = "{downstream} is for counts: leave it out for real values"
        raise InputError(text, code="downstream-kind", downstream="de")


# -- one fit for all splits of a trial ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tables:
    """What some schemes need in addition to the data."""

    gc: dict[str, float] = field(default_factory=dict)  # GC content by gene
    # numbers of reads, (sites, samples), by name of a dataset; coverages are drawn from them
    coverage: dict[str, np.ndarray] = field(default_factory=dict)


def read_gc(path: str) -> dict[str, float]:
    """GC content by gene, from a CSV file with a header and two columns."""
    import pandas as pd

    text = read_small_text(Path(path), "table of GC contents", code="gc-file", parameter="gc")
    try:
        return pd.read_csv(StringIO(text), index_col=0).iloc[:, 0].astype(np.float64).to_dict()
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{path} needs a header and two columns, gene and GC content: {error}", code="gc-file", parameter="gc"
        ) from error


def coverage_like(reads: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A coverage matrix of ``shape`` (n, G), drawn from the (sites, samples) numbers of ``reads``.

    Each feature takes a site of ``reads`` at random, and each row takes at this site the reads of a random sample. So
    the differences between sites, and those within a site, are kept.
    """
    n, G = shape
    sites = rng.integers(len(reads), size=G)
    return reads[sites, rng.integers(reads.shape[1], size=(n, G))]  # (n, G)


def options_of(split: Hiding, tables: Tables) -> str:
    """What a split is stored under in the column ``options``: all that decides which values it hides."""
    settings = non_defaults(split)
    settings.pop("datasets", None)
    if split.scheme == "high_gc":
        settings["gc"] = digest(sorted(tables.gc.items()))
    if split.coverage:
        settings["reads"] = digest(tables.coverage[split.coverage])
    return json.dumps(settings, sort_keys=True)


def run_trial(
    dataset: Dataset,
    methods: Iterable[Method | MethodSpec],
    splits: Sequence[Hiding],
    *,
    trial: int,
    seed: int = 0,
    tables: Tables | None = None,
    transform: str | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
    controls: bool = True,
) -> pd.DataFrame:
    """Fit each method once on the training rows, and score it under every way to hide test values.

    Fits take most of the time, and all schemes leave the training rows complete, so one fit serves all splits. The
    splits have the same rows, stratified by the labels if there are any; the seed is derived from the trial, ``seed``
    and the name of the dataset. Values are imputed on ``transform``, as in `run_study`, and errors on it are in units
    of the SD of the feature in the training rows; test rows do not enter the unit. An interrupted trial,
    or one with new splits, continues from ``output``: a method is fitted again only if one of its rows is missing.

    Gives rows as `run_study`, with ``rmse``, ``mae`` (which paper 003 calls RMSE) and ``pearson`` over the hidden
    entries; ``feature_rmse``, the mean over features of the RMSE of each (Table S1 of paper 003); ``share_hidden`` of
    the test values; ``fit_seconds``, ``apply_seconds``, and the numbers of the fit. With clinical columns also
    ``spearman_concordance`` and ``cox_concordance``, the `concordance_index` between coefficients from the imputed and
    from the true values (test rows, features with a hidden entry), and ``spearman_difference_variance`` and
    ``cox_difference_variance``, the variance of the first minus the second (figure 4; Cox within `COX_LIMIT`).
    """
    tables = tables or Tables()
    if dataset.data.kind != "real" or np.isnan(dataset.data.known_values()).any():
        raise InputError(f"{dataset.name}: these splits need real values without gaps", code="data-not-complete")
    if not dataset.data.obs_names.is_unique:
        raise InputError(f"{dataset.name}: rows are found by name: make the names unique", code="names-not-unique")
    specs = [parse_method(method) for method in methods]
    specs = with_controls(specs, "real") if controls else specs
    journal = Journal(output)
    trial_seed = seed_for(dataset.name, "rows", trial, base=seed)
    identity = dataset.identity()
    options = {split.label: {**json.loads(options_of(split, tables)), **identity} for split in splits}
    hidden: _HiddenValues | None = None
    for place, spec in enumerate(specs):
        keys = {
            split.label: {
                **{"dataset": dataset.name, "method": spec.label, "parameters": spec.parameters},
                **{"scheme": split.label, "options": json.dumps(options[split.label]), "fraction": _fraction(split)},
                **{"trial": trial, "seed": trial_seed},
            }
            for split in splits
        }
        todo = [label for label, key in keys.items() if key_of(key) not in journal.done]
        if not todo:
            continue
        if progress is not None:
            progress(place / len(specs), f"{dataset.name}, {spec.label}, trial {trial + 1}")
        hidden = hidden or _HiddenValues(dataset, splits, tables, trial_seed, transform)
        fit = _fit(spec, hidden.train, trial_seed, hidden.units.link.name)
        used = {"transform": spec.link or hidden.units.link.name}
        journal.append([{**keys[label], **used, **row} for label in todo for row in _score_fit(fit, hidden, label)])
    return journal.finish()


def _fraction(split: Hiding) -> float:
    return float(scheme_options(split.scheme)["fraction"] if split.fraction is None else split.fraction)


class _HiddenValues:
    """The splits of one trial and the truth for their scores, computed once for all methods."""

    def __init__(
        self, dataset: Dataset, splits: Sequence[Hiding], tables: Tables, seed: int, transform: str | None
    ) -> None:
        self.splits: dict[str, Split] = {}  # by label
        for split in splits:
            # each scheme draws the rows first, so with the same seed all have the same test rows
            made = make_split(
                split.scheme,
                dataset.data,
                rng=np.random.default_rng(seed),
                **{"fraction": _fraction(split), "labels": dataset.labels, **split.options},
                **_scheme_inputs(dataset, split, tables, seed),
            )
            assert made.apply is not None  # noqa: S101  (types)
            self.splits[split.label] = made
            self.train, names = made.train, made.apply.obs_names
        self.units = Units(self.train, chosen_transform(self.train, transform)[0])
        places = dataset.data.obs_names.get_indexer(names)
        self.truth = self.units.of(dataset.data.X[places])  # (n test, G)
        self.clinical = {name: column[places] for name, column in dataset.clinical.items()}
        self.coefficients = clinical_coefficients(values=self.truth, **self.clinical)

    def scores(self, prediction: np.ndarray, split: Split) -> dict[str, float]:
        """Scores of predictions, one for each hidden entry."""
        i, j = split.i, split.j
        assert i is not None and j is not None  # noqa: S101, PT018  (types)
        predicted = self.units.of(prediction, j)
        scores = {name: METRICS[name].function(truth=self.truth[i, j], prediction=predicted) for name in TRIAL_METRICS}
        errors = feature_rmse(truth=self.truth[i, j], prediction=predicted, feature=j)
        scores["feature_rmse"] = float(np.mean(list(errors.values())))
        scores["share_hidden"] = split.fraction
        if self.coefficients:
            features = np.unique(j)
            imputed = self.truth.copy()
            imputed[i, j] = predicted
            for name, coefficients in clinical_coefficients(values=imputed[:, features], **self.clinical).items():
                truth = self.coefficients[name][features]
                scores[f"{name}_concordance"] = concordance_index(truth=truth, prediction=coefficients)
                limit = COX_LIMIT if name == "cox" else None
                apart = coefficient_differences(truth=truth, prediction=coefficients, limit=limit)
                scores[f"{name}_difference_variance"] = apart.variance
        return scores


def _scheme_inputs(dataset: Dataset, split: Hiding, tables: Tables, seed: int) -> dict[str, Any]:
    """What a scheme needs in addition to the data."""
    if split.scheme == "high_gc":
        return {"gc": tables.gc}
    if split.scheme == "low_coverage":
        rng = np.random.default_rng(seed_for("coverage", base=seed))
        return {"coverage": coverage_like(tables.coverage[split.coverage], dataset.data.shape, rng)}
    return {}


def _fit(spec: MethodSpec, train: Data, seed: int, link: str) -> Step:
    """Fit a method; the value is the estimator and the status of its fit."""

    def fit() -> tuple[Imputer, Status]:
        estimator = _estimator(spec, seed, link)
        return estimator, estimator.fit_transform(train).status

    return attempt(fit)


def _score_fit(fit: Step, hidden: _HiddenValues, label: str) -> Iterator[dict[str, Any]]:
    """Impute and score one split with a fitted method."""
    if fit.reason:
        return score_rows([fit])
    estimator, status = fit.value
    split = hidden.splits[label]
    imputed = attempt(lambda: estimator.transform(split.apply).at(split.i, split.j, keep_observed=False))
    if imputed.reason:
        return score_rows([fit, imputed])
    numbers = {**_numbers_in(status.details), "fit_seconds": fit.seconds, "apply_seconds": imputed.seconds}
    return score_rows([fit, imputed], attempt(lambda: numbers | hidden.scores(imputed.value, split)), status)
