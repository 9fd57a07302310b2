"""What a study runs: datasets, ways to hide values, configurations of methods, and claims about the results.

A study is written as a TOML file; docs/studies/file_format.md describes it. A study of `imputome.studies.tuning` is
something else: Optuna's.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_type_hints

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    InstanceOf,
    StrictBool,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as validated

from imputome.core.data import Kind
from imputome.core.links import link
from imputome.datasets import names as dataset_names
from imputome.errors import InputError, printable
from imputome.evaluation.metrics import METRICS
from imputome.evaluation.splits import SCHEMES, scheme_options
from imputome.io.config import from_toml, read_toml
from imputome.methods import get, names
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS
from imputome.methods.registry import METHODS
from imputome.studies.inputs import MethodSpec, lacking, parse_method, standard_controls
from imputome.studies.pictures import Picture, pictures_within
from imputome.studies.results import FIT_NUMBERS, HIGHER, TRIAL_METRICS, TRIAL_NUMBERS
from imputome.studies.settings import check_settings
from imputome.studies.spec_faults import check_known, check_texts, first_fault, within, wrong
from imputome.studies.tuning_table import Tuning, on_datasets

CLOSED = ConfigDict(extra="forbid")
FOLDER = Path(__file__).parent  # of the studies that come with the package
BASE = "base"
SCALES = ("smoke", "desk", "full")  # minutes; an hour on two cores; the paper's sizes and grids
MAX_COMBINATIONS = 1000  # of the values of one table of factors
FRACTION = "fraction"  # of hidden values, on the axis of a figure
ZSCORE = "zscore"  # scale of splits that share their training rows and fits within a trial
CLINICAL = {"grade", "time", "event"}
# options of schemes that `imputome.studies.runner.run_trial` sets itself
SET_BY_TRIAL = ("fraction", "rows", "test", "labels", "gc", "coverage")


# -- the parts of a study ----------------------------------------------------------------------------------------------
Limit = Annotated[StrictInt, Field(ge=2)]  # methods need at least two cells and two genes
Transform = Annotated[str, AfterValidator(lambda name: link(name).name)]  # of `imputome.core.links`, for real values
Params = dict[str, Any]
Share = Annotated[StrictFloat, Field(gt=0, lt=1)]
Trials = Annotated[StrictInt, Field(ge=1, le=100_000)]


@validated(frozen=True, config=CLOSED)
class Subset:
    """The part of a dataset that a study uses; if there are more cells or features, they are drawn with the seed."""

    name: str  # as in `imputome.datasets`, or any name beside a path
    path: str = ""  # a file of your own, as `imputome impute` takes it; relative to the file of the study
    layer: str | None = None  # these five as in `imputome.impute`
    kind: Kind | None = None
    round_counts: Literal["nearest", "stochastic"] | None = None
    feature_type: str | None = None
    keep_summary_rows: StrictBool = False
    max_cells: Limit | None = None
    min_genes: StrictInt = 0  # cells with fewer detected genes are left out,
    min_cells: StrictInt = 0  # and genes detected in fewer cells
    # cells with as many detected genes, molecules, or such a share of mitochondrial molecules are left out
    max_genes: Limit | None = None
    max_counts: StrictFloat | StrictInt | None = None
    max_mitochondrial: Share | None = None
    n_top_genes: Limit | None = None  # most variable genes to keep, for counts
    max_features: Limit | None = None
    # what real values are transformed with first; None: methods impute on the transform that fits the training part
    transform: Transform | None = None
    # counts of two groups like those of this part, with known differences: arguments of
    # `imputome.evaluation.simulate.simulated_groups`; the labels are then their column "group"
    simulate: Params = field(default_factory=dict)
    labels: str = ""  # column of ``obs`` with the class of each row
    clinical: dict[str, str] = field(default_factory=dict)  # columns of ``obs`` for grade, and for time and event

    @field_validator("clinical")
    @classmethod
    def _known_columns(cls, clinical: dict[str, str]) -> dict[str, str]:
        if set(clinical) - CLINICAL or ("time" in clinical) != ("event" in clinical):
            raise wrong("clinical takes the columns grade, or time and event, or all three")
        return clinical

    @property
    def label(self) -> str:
        """Name in tables of results, with what is taken of the dataset."""
        limits = {
            "layer {}": self.layer,
            "as {}": self.kind,
            "rounded, {}": self.round_counts,
            "features: {}": self.feature_type,
            "at most {} cells": self.max_cells,
            "{} variable genes": self.n_top_genes,
            "at most {} features": self.max_features,
            "simulated, {}": ", ".join(f"{key} {value}" for key, value in self.simulate.items()) or None,
        }
        parts = [text.format(limit) for text, limit in limits.items() if limit is not None]
        return f"{self.name} ({', '.join(parts)})" if parts else self.name


@validated(frozen=True, config=CLOSED)
class Hiding:
    """A way to hide values.

    With ``scale="zscore"`` (real values, for all splits of a study) each method is fitted once per trial, and the split
    can have a ``coverage``; without it, it can have ``downstream`` and ``protocol``.
    """

    scheme: str  # one of ``imputome.evaluation.splits.SCHEMES``
    fraction: Annotated[StrictFloat, Field(gt=0, lt=1)] | None = (
        None  # share of values to hide; by default that of the scheme
    )
    scale: Literal["counts", "log1p", "median", "zscore"] = "counts"  # of the scores
    params: Params = field(default_factory=dict)  # of the method of [base] under this split
    name: str = ""  # in tables of results; by default the scheme
    options: Params = field(default_factory=dict)  # of the scheme
    downstream: tuple[str, ...] = ()  # analyses of the imputed matrix, as in `imputome.studies.runner.run_study`
    protocol: str = "honest"  # as there
    datasets: tuple[str, ...] = ()  # names of those that it is for; by default all
    coverage: str = ""  # the dataset whose coverages are drawn, for low_coverage

    @model_validator(mode="after")
    def _can_be_run(self) -> Self:
        scheme_options(self.scheme)  # refuses an unknown scheme
        options = [name for name in scheme_options(self.scheme) if name not in SET_BY_TRIAL]
        check_known("option", self.options, options, where=f"{self.scheme}: ")
        if self.scale != ZSCORE:
            if self.coverage:
                raise wrong(f"coverage needs scale={ZSCORE!r}")
            check_settings(self.scheme, self.fraction, self.downstream, self.protocol)
            return self
        if self.params:
            raise wrong(f"methods are fitted once for all splits with scale={ZSCORE!r}: leave out params")
        if self.downstream or self.protocol != "honest":
            raise wrong(f"downstream and protocol are not for scale={ZSCORE!r}: leave them out")
        if self.scheme not in SCHEMES or SCHEMES[self.scheme].kind != "real":
            raise wrong(f"{self.scheme} hides counts, and scale={ZSCORE!r} is for real values")
        if (self.scheme == "low_coverage") != bool(self.coverage):
            raise wrong("low_coverage needs the name of a dataset as coverage, and no other scheme takes one")
        return self

    @property
    def label(self) -> str:
        """Name in tables of results, in the column ``scheme``."""
        return self.name or self.scheme


@validated(frozen=True, config=CLOSED)
class Configuration:
    """A method with parameters, and its name in tables and claims."""

    name: str
    spec: InstanceOf[MethodSpec]
    splits: tuple[str, ...] = ()  # labels of those that it runs on; by default all


@validated(frozen=True, config=CLOSED)
class Claim:
    """A statement that the results may support or not; see `imputome.studies.claims.check_claims`.

    The kinds are:

    - ``"better"``: the first of two configurations is better than the second, by at least the share ``value`` of it,
    - ``"similar"``: the first of two differs from the second by at most the share ``value``,
    - ``"at_least"``: the metric is ``value`` or more,
    - ``"monotone"``: the metric never rises from one configuration to the next,
    - ``"close"``: the metric differs from ``reference``, another metric, by at most the share ``value``.
    """

    text: str
    kind: Literal["better", "at_least", "monotone", "close", "similar"]
    metric: str  # splits without it are left out
    configurations: tuple[str, ...]
    value: StrictFloat = 0.0
    reference: str = ""
    control: str = ""  # the table of claims says whether the first configuration is better than this control
    by: Literal["paper", "us"] = "paper"  # whose claim it is; a paper's is judged on the paper's configuration
    splits: tuple[str, ...] = ()  # labels of those that the claim is about; by default all
    datasets: tuple[str, ...] = ()  # names of those that the claim is about; by default all

    @model_validator(mode="after")
    def _can_be_checked(self) -> Self:
        size = len(self.configurations)
        fits = {"better": size == 2, "similar": size == 2, "monotone": size >= 2}.get(self.kind, size == 1)
        if not fits:
            raise wrong(f"a claim of kind {self.kind!r} cannot have {size} configurations: {self.text!r}")
        if self.kind == "close" and not self.reference:
            raise wrong(f"a claim of kind 'close' needs a reference, another metric: {self.text!r}")
        low = self.metric in METRICS and METRICS[self.metric].better == "lower"
        if self.kind == "better" and self.value and not low:
            raise wrong(f"a claim of kind 'better' with a value needs a metric where lower is better: {self.text!r}")
        return self


@validated(frozen=True, config=CLOSED)
class Comparison:
    """Tests over trials: one configuration against each of several others, in one metric.

    Wilcoxon's signed-rank test pairs the trials; Welch's t-test, which paper 003 uses, does not.
    """

    first: str
    others: tuple[str, ...]
    metric: str = "rmse"
    test: Literal["wilcoxon", "welch"] = "wilcoxon"


@validated(frozen=True, config=CLOSED)
class Published:
    """A table of a paper, printed with our numbers for one metric and dataset."""

    title: str
    metric: str
    dataset: str
    columns: dict[str, str]  # heading -> configuration or control
    rows: dict[str, dict[str, str]]  # label of a split -> heading -> the number in the paper, as text

    @model_validator(mode="after")
    def _known_headings(self) -> Self:
        for row in self.rows.values():
            check_known("column", row, self.columns)
        return self


@validated(frozen=True, config=CLOSED)
class Figure:
    """A figure of the page of a study: a metric against a parameter, or of some configurations, for each data set.

    With ``x``, the configurations are those that differ from the base in ``x``, ``lines`` and ``where`` only. With
    ``x="fraction"``, the share of values that is hidden, ``splits`` are along the axis, and each of ``configurations``
    and ``controls`` is a line. With ``metrics`` these are along the axis, whose title is ``x``.
    """

    title: str
    metric: str
    x: str = ""  # parameter on the horizontal axis
    lines: str = ""  # parameter with a line for each value
    where: Params = field(default_factory=dict)  # other parameters, if they are not those of the base
    log: StrictBool = False  # whether the horizontal axis is logarithmic
    configurations: tuple[str, ...] = ()  # instead of x: a bar for each
    controls: tuple[str, ...] = ()  # drawn beside them
    splits: tuple[str, ...] = ()  # labels; by default all that have the metric
    metrics: dict[str, str] = field(default_factory=dict)  # number on the axis -> metric; ``metric`` is their name then

    @property
    def lines_are_configurations(self) -> bool:
        """Whether each configuration is a line."""
        return self.x == FRACTION or bool(self.metrics)

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.metrics:
            if not (self.x and self.configurations) or self.x == FRACTION:
                raise wrong(
                    f"a figure with metrics needs configurations, and the title of its axis as x: {self.title!r}"
                )
            for number in self.metrics:
                if not re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", number):
                    raise wrong(f"a figure with metrics has numbers before them, not {number!r}: {self.title!r}")
        elif self.x == FRACTION:
            if not (self.configurations and self.splits):
                raise wrong(f"a figure with x={FRACTION!r} needs configurations and splits: {self.title!r}")
        elif bool(self.x) == bool(self.configurations):
            raise wrong(f"a figure needs either x or configurations: {self.title!r}")
        if (self.lines or self.where) and (self.metrics or self.x in ("", FRACTION)):
            raise wrong(f"a figure with lines or where needs a parameter as x: {self.title!r}")
        if self.log and self.x in ("", FRACTION):
            raise wrong(f"a figure with log needs a parameter or metrics on its axis: {self.title!r}")
        return self


@validated(frozen=True, config=CLOSED)
class Study:
    """A study, as `find_study` reads it from a file."""

    name: str  # of the file
    title: str
    datasets: Annotated[tuple[Subset, ...], Field(min_length=1)]
    splits: Annotated[tuple[Hiding, ...], Field(min_length=1)]
    configurations: Annotated[tuple[Configuration, ...], Field(min_length=1)]  # the first is the base
    claims: tuple[Claim, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    published: tuple[Published, ...] = ()
    figures: tuple[Figure, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tuning: tuple[Tuning, ...] = ()
    scale: str = "desk"  # one of `SCALES`
    minutes: StrictFloat | StrictInt | None = None  # of one processor, as measured once
    controls: tuple[str, ...] = ()  # in addition to those of `standard_controls`
    shown: tuple[str, ...] = ()  # metrics of the printed tables; by default all
    spread: Literal["sd", "interval", "sem"] = "sd"  # printed after a mean, see `imputome.studies.claims.AFTER_MEAN`
    gc: str = ""  # CSV file with the GC content of the genes
    paper: str = ""  # source of the claims
    trials: Trials = 1
    trials_of: dict[str, Trials] = field(default_factory=dict)  # see `imputome.studies.trials.trials_of_configurations`
    seed: Annotated[StrictInt, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        configurations = [configuration.name for configuration in self.configurations]
        splits = [split.label for split in self.splits]
        labels = [subset.label for subset in self.datasets]
        for what, all_names in (("datasets", labels), ("configurations", configurations), ("splits", splits)):
            name, number = Counter(all_names).most_common(1)[0]
            if number > 1:
                raise wrong(f"two {what} have the name {name!r}: give each its own", code="study-name-twice")
        for configuration in self.configurations:
            where = f"configuration {configuration.name!r}: "
            check_known("split", configuration.splits, splits, where=where)
            if configuration.splits and self.shares_fits:
                raise wrong(f"{where}leave out splits, because all splits of a trial share the fit of a method")
        check_known("method", self.controls, [*REFERENCE_PREDICTIONS, *names()], where="controls: ")
        check_known("parameter", self.trials_of, self.configurations[0].spec.params, where="trials_of: in [base] ")
        subsets = [subset.name for subset in self.datasets]
        check_known("dataset", [each.dataset for each in self.tuning], subsets, where="[[tuning]]: ")
        for claim in self.claims:
            check_known("configuration", claim.configurations, configurations, where="[[claims]]: ")
            check_known("split", claim.splits, splits, where="[[claims]]: ")
        every = [*configurations, *self.control_specs()]
        for comparison in self.comparisons:
            check_known("configuration", (comparison.first, *comparison.others), every, where="[[comparisons]]: ")
        for table in self.published:
            check_known("configuration", table.columns.values(), every, where="[[published]]: ")
            check_known("split", table.rows, splits, where="[[published]]: ")
        for figure in self.figures:
            shown = (*figure.configurations, *figure.controls)
            check_known("configuration", shown, every, where="[[figures]]: ")
            check_known("split", figure.splits, splits, where="[[figures]]: ")
            shares = Counter(split.fraction for split in self.splits if split.label in figure.splits)
            if figure.x == FRACTION and (None in shares or shares.most_common(1)[0][1] > 1):
                raise wrong(f"[[figures]]: the splits of {figure.title!r} need different fractions: give each its own")
            parameters = self.configurations[0].spec.params
            if not figure.lines_are_configurations:
                check_known("parameter", filter(None, (figure.x, figure.lines)), parameters, where="[[figures]]: ")
        specs = self.control_specs() | {each.name: each.spec for each in self.configurations}
        labelled = {subset.name: bool(subset.labels or subset.simulate) for subset in self.datasets}
        for picture in self.pictures:
            check_known("configuration", picture.configurations, every, where="[[pictures]]: ")
            check_known("split", filter(None, (picture.split,)), splits, where="[[pictures]]: ")
            # a scale can have other data sets than the file
            check_known("dataset", picture.datasets, [*labelled, *dataset_names()], where="[[pictures]]: ")
            picture.check(specs, labelled, shares_fits=self.shares_fits)
        return self

    @model_validator(mode="after")
    def _methods_fit(self) -> Self:
        if len({split.scale == ZSCORE for split in self.splits}) > 1:
            raise wrong(f"[[splits]]: either all splits have scale={ZSCORE!r} or none")
        for split in self.splits:
            for place, (name, spec) in enumerate(self.specs(split).items()):
                try:
                    if place and lacking(spec):  # skipped, see `imputome.studies.units.skipped`; a study needs its base
                        continue
                    parse_method(spec)
                except InputError as error:
                    raise within(f"configuration {name!r}", error) from error
                if spec.after and (self.shares_fits or not callable(getattr(get(spec.method), spec.after, None))):
                    raise wrong(f"configuration {name!r}: {spec.name} has nothing to run called {spec.after!r}")
        named = {
            "[[claims]]: ": [name for claim in self.claims for name in (claim.metric, claim.reference) if name],
            "[[comparisons]]: ": [comparison.metric for comparison in self.comparisons],
            "[[published]]: ": [table.metric for table in self.published],
            "[[figures]]: ": [name for each in self.figures for name in each.metrics.values() or (each.metric,)],
            "shown: ": self.shown,
        }
        for where, metrics in named.items():
            check_known("metric", metrics, self._recorded() or metrics, where=where)
        return self

    def _recorded(self) -> list[str]:
        """Names of the metrics that the results will have; empty if a method from elsewhere may report others."""
        specs = [configuration.spec for configuration in self.configurations]
        if not {spec.method for spec in specs} <= set(METHODS) or any(spec.after and lacking(spec) for spec in specs):
            return []
        scores = (*TRIAL_METRICS, *TRIAL_NUMBERS) if self.shares_fits else (*METRICS, *HIGHER)
        return [
            *scores,
            *FIT_NUMBERS,
            *(f"{spec.after}_{name}" for spec in specs if spec.after for name in _after(spec)),
        ]

    @property
    def shares_fits(self) -> bool:
        """Whether all splits of a trial share their training rows and fits (`imputome.studies.runner.run_trial`)."""
        return self.splits[0].scale == ZSCORE

    def splits_of(self, subset: Subset) -> tuple[Hiding, ...]:
        """The splits that are for a dataset and have all that they need."""
        return tuple(split for split in self.splits if self.applies(split, subset) and not self.lacks(split))

    def applies(self, split: Hiding, subset: Subset) -> bool:
        """Whether a split is for a dataset."""
        return not split.datasets or subset.name in split.datasets

    def lacks(self, split: Hiding) -> str:
        """What a split needs but does not have, as a sentence; empty if nothing is missing."""
        if split.scheme == "high_gc" and not self.gc:
            return "high_gc needs the GC content of the genes: pass gc, a CSV file with the columns gene and content"
        return ""

    def specs(self, split: Hiding) -> dict[str, MethodSpec]:
        """Name -> method and parameters under ``split``; two names can have equal ones."""
        method = self.configurations[0].spec.name
        here = [each for each in self.configurations if not each.splits or split.label in each.splits]
        return {
            name: replace(spec, params={**spec.params, **split.params}) if spec.name == method else spec
            for name, spec in ((configuration.name, configuration.spec) for configuration in here)
        }

    def names_of_rows(self, split: Hiding) -> dict[tuple[str, str], list[str]]:
        """(method, parameters) as in tables of results -> names in this study; a control has its method's name."""
        row_names: dict[tuple[str, str], list[str]] = {}
        for name, spec in {**self.control_specs(), **self.specs(split)}.items():
            row_names.setdefault((spec.label, spec.parameters), []).append(name)
        return row_names

    def control_specs(self) -> dict[str, MethodSpec]:
        """Name -> control: those of every study, and those of this one."""
        every = (*standard_controls("counts"), *standard_controls("real"), *self.controls)
        return {name: MethodSpec(name) for name in every}

    def only(self, dataset_names: Iterable[str]) -> Study:
        """The same study on some of its datasets, at least one."""
        chosen = list(dataset_names) or [""]
        known = [subset.name for subset in self.datasets]
        check_known("dataset", chosen, known, where=f"study {self.name}: ")
        datasets = tuple(subset for subset in self.datasets if subset.name in chosen)
        pictures, tuning = pictures_within(self.pictures, datasets=chosen), on_datasets(self.tuning, chosen)
        return replace(self, datasets=datasets, pictures=pictures, tuning=tuning)


def non_defaults(part: Subset | Hiding) -> dict[str, Any]:
    """The fields that differ from their defaults: what results are stored under.

    A field that a later version adds leaves old results valid.
    """
    values: dict[str, Any] = TypeAdapter(type(part)).dump_python(part, exclude_defaults=True)
    return values


def _after(spec: MethodSpec) -> list[str]:
    """The numbers that are recorded of what is called after a fit: the fields of what it returns."""
    returned = get_type_hints(getattr(get(spec.method), spec.after)).get("return")
    return [each.name for each in fields(returned)] if is_dataclass(returned) else []


# -- the file ----------------------------------------------------------------------------------------------------------
@validated(frozen=True, config=CLOSED)
class _Base:
    """``[base]``: the method that the configurations vary."""

    method: str
    after: str = ""
    params: Params = field(default_factory=dict)


@validated(frozen=True, config=CLOSED)
class _Variant:
    """One of ``[[configurations]]``: what differs from the base."""

    name: str
    method: str | None = None
    after: str | None = None
    params: Params = field(default_factory=dict)
    splits: tuple[str, ...] = ()  # labels of those that it runs on; by default all


@validated(frozen=True, config=CLOSED)
class _Change:
    """``[scale.NAME]``: what a scale changes."""

    title: str | None = None
    trials: int | None = None
    trials_of: dict[str, Any] | None = None
    minutes: float | int | None = None
    spread: str | None = None
    datasets: tuple[Any, ...] | None = None
    splits: tuple[Any, ...] | None = None
    factors: tuple[dict[str, Any], ...] | None = None
    tuning: tuple[Any, ...] | None = None
    keep: tuple[str, ...] = ()  # names of the configurations that are run; by default all
    all_splits: StrictBool = False  # whether every configuration runs on all splits
    params: Params = field(default_factory=dict)  # of every configuration
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the configurations of one method


@validated(frozen=True, config=CLOSED)
class _MethodTables:
    """The tables of a file that the configurations are made of."""

    base: _Base
    common: Params = field(default_factory=dict)
    factors: tuple[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], ...] = ()
    configurations: tuple[_Variant, ...] = ()

    def variants(self) -> list[_Variant]:
        """The base, all combinations of each table of factors, and the other configurations."""
        variants = [_Variant(BASE)]
        for factor in self.factors:
            check_known("parameter", factor, self.base.params, where="[[factors]]: in the params of [base] ")
            if math.prod(map(len, factor.values())) > MAX_COMBINATIONS:
                text = f"[[factors]]: {', '.join(factor)} have more than {MAX_COMBINATIONS} combinations"
                raise wrong(f"{text}: give fewer values")
            for values in itertools.product(*factor.values()):
                name = ", ".join(f"{key}={plain_value(value)}" for key, value in zip(factor, values, strict=True))
                variants.append(_Variant(name, params=dict(zip(factor, values, strict=True))))
        return [*variants, *self.configurations]

    def configured(self, change: _Change) -> list[Configuration]:
        """The configurations of a scale, with its parameters last."""
        configurations = []
        for variant in self.variants():
            method = variant.method or self.base.method
            base = self.base if method == self.base.method else _Base(method)
            params = {**self.common, **base.params, **variant.params, **change.params, **change.methods.get(method, {})}
            params = {key: from_toml(value) for key, value in params.items()}
            after = base.after if variant.after is None else variant.after
            splits = () if change.all_splits else variant.splits
            configurations.append(Configuration(variant.name, MethodSpec(method, params, after), splits))
        if not change.keep:
            return configurations
        check_known("configuration", change.keep, [each.name for each in configurations], where="keep: ")
        return [each for each in configurations if each.name in (BASE, *change.keep)]


# fields of the tables, for messages
TABLES: dict[str, Any] = {
    **{"datasets": Subset, "splits": Hiding, "claims": Claim, "comparisons": Comparison, "published": Published},
    **{"base": _Base, "configurations": _Variant, "scale": _Change, "figures": Figure, "pictures": Picture},
    "tuning": Tuning,
}


def known_studies() -> dict[str, str]:
    """Names and titles of the studies that come with the package.

    Examples
    --------
    >>> from imputome.studies.spec import known_studies
    >>> "zipo_claims" in known_studies()
    True
    """
    paths = sorted(FOLDER.glob("*.toml"))
    return {path.stem: read_toml(path, "study file", code="study-file")["title"] for path in paths}


def find_study(name: str, *, scale: str = "desk") -> Study:
    """A study of the package by its name, or of a .toml file by its path, at one of `SCALES`.

    A file is the study at the scale ``"desk"``; its tables ``[scale.smoke]`` and ``[scale.full]`` say what others
    change.
    """
    if scale not in SCALES:
        raise InputError(f"there is no scale {scale!r}: choose one of {', '.join(SCALES)}", code="scale-unknown")
    path = Path(name)
    if path.suffix != ".toml":
        if name not in known_studies():
            text = f"there is no study {name!r}: choose one of {', '.join(known_studies())}, or give a .toml file"
            raise InputError(text, code="unknown-study")
        path = FOLDER / f"{name}.toml"
    content = read_toml(path, "study file", code="study-file")
    if content.get("gc"):
        content["gc"] = str(path.parent / str(content["gc"]))
    try:
        check_texts(content)
        return _beside(path, _study(printable(path.stem, 200), content, scale))
    except (ValidationError, InputError) as error:
        raise within(
            path.name, error if isinstance(error, InputError) else first_fault(error, TABLES, Study)
        ) from error


def _beside(path: Path, study: Study) -> Study:
    """The study with the paths of its data sets as seen from the working folder."""
    datasets = tuple(
        replace(subset, path=str(path.parent / subset.path)) if subset.path else subset for subset in study.datasets
    )
    return replace(study, datasets=datasets)


def _study(name: str, content: dict[str, Any], scale: str) -> Study:
    changes = TypeAdapter(dict[Literal["smoke", "full"], _Change]).validate_python(content.pop("scale", {}))
    method_tables = {entry.name: content.pop(entry.name) for entry in fields(_MethodTables) if entry.name in content}
    tables = TypeAdapter(_MethodTables).validate_python(method_tables)
    content |= {"name": name, "configurations": tables.configured(_Change())}
    study = TypeAdapter(Study).validate_python(content)
    if scale == "desk":
        return study
    if scale not in changes:
        text = f"the table [scale.{scale}] is missing, so there is no such scale: choose another, or write the table"
        raise InputError(text, code="scale-missing")
    change = changes[scale]
    if change.factors is not None:
        tables = TypeAdapter(_MethodTables).validate_python(method_tables | {"factors": change.factors})
    changed: dict[str, Any] = {
        key: getattr(change, key) for key in ("title", "trials", "spread") if getattr(change, key) is not None
    }
    if change.trials is not None or change.trials_of is not None:
        changed["trials_of"] = change.trials_of or {}  # those of the file are beside its own number of trials
    if change.datasets is not None:
        changed["datasets"] = TypeAdapter(tuple[Subset, ...]).validate_python(change.datasets)
    if change.splits is not None:
        changed["splits"] = TypeAdapter(tuple[Hiding, ...]).validate_python(change.splits)
    left = {subset.name for subset in changed.get("datasets", study.datasets)}
    changed["tuning"] = on_datasets(study.tuning, left) if change.tuning is None else change.tuning
    changed |= {"scale": scale, "minutes": change.minutes}
    labels = {split.label for split in changed.get("splits", study.splits)}
    changed["configurations"] = tuple(
        replace(each, splits=tuple(label for label in each.splits if label in labels))
        for each in tables.configured(change)
        if not each.splits or not labels.isdisjoint(each.splits)
    )
    return replace(study, **changed, **_said_of(study, changed))


def _said_of(study: Study, changed: dict[str, Any]) -> dict[str, Any]:
    """The claims, figures, comparisons and published tables, without what a scale leaves out."""
    configurations = {each.name for each in changed["configurations"]} | set(study.control_specs())
    splits = {split.label for split in changed.get("splits", study.splits)}
    datasets = {subset.name for subset in changed.get("datasets", study.datasets)}

    def kept(part: Claim | Figure) -> bool:
        return not part.splits or not splits.isdisjoint(part.splits)

    def on_splits(part: Claim | Figure, **others: Any) -> Any:
        return replace(part, splits=tuple(label for label in part.splits if label in splits), **others)

    def named(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in configurations)

    return {
        "claims": tuple(
            on_splits(claim)
            for claim in study.claims
            if kept(claim)
            and configurations.issuperset(claim.configurations)
            and (not claim.datasets or not datasets.isdisjoint(claim.datasets))
        ),
        "figures": tuple(
            on_splits(figure, configurations=named(figure.configurations))
            for figure in study.figures
            if kept(figure) and (figure.x or named(figure.configurations))
        ),
        "pictures": pictures_within(study.pictures, configurations=configurations, splits=splits, datasets=datasets),
        "comparisons": tuple(
            replace(each, others=named(each.others)) for each in study.comparisons if each.first in configurations
        ),
        "published": tuple(
            replace(
                table,
                columns={heading: name for heading, name in table.columns.items() if name in configurations},
                rows={
                    label: {head: text for head, text in row.items() if table.columns[head] in configurations}
                    for label, row in table.rows.items()
                    if label in splits
                },
            )
            for table in study.published
        ),
    }


def plain_value(value: Any) -> str:
    """A value of a parameter as it is in the name of a configuration."""
    return f"{value:g}" if isinstance(value, float) else str(value)
