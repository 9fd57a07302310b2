"""Whether a study as read from a file can be run: every name is known, and what is given goes together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from imputome.core.imputer import check_parameters
from imputome.core.links import link
from imputome.errors import InputError
from imputome.evaluation.metrics import METRICS
from imputome.evaluation.splits import SCHEMES, scheme_options
from imputome.methods import get, names
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS
from imputome.studies.runner import MethodSpec
from imputome.studies.study import TOGETHER, Claim, ClaimKind, Hiding, Study, Subset

CLINICAL = {"grade", "time", "event"}
PAIRS = ("better", "similar")  # kinds of claims about two configurations
# options of schemes that a trial sets itself
OWN = ("fraction", "rows", "test", "labels", "gc", "coverage")


def check_study(study: Study) -> None:
    """Refuse a study that cannot be run, with what to change."""
    for what in ("datasets", "splits"):
        if not getattr(study, what):
            raise InputError(f"[[{what}]]: at least one is needed")
    if study.trials < 1 or study.seed < 0:
        raise InputError(f"trials={study.trials} must be at least 1, and seed={study.seed} not negative")
    if study.spread not in ("sd", "interval"):
        raise InputError(f"spread={study.spread!r} is neither 'sd' nor 'interval'")
    configurations = [configuration.name for configuration in study.configurations]
    splits = [split.label for split in study.splits]
    labels = [subset.label for subset in study.datasets]
    for what, given in (("datasets", labels), ("configurations", configurations), ("splits", splits)):
        twice = [name for name in given if given.count(name) > 1]
        if twice:
            raise InputError(f"two {what} are called {twice[0]!r}: give each a name of its own")
    for subset in study.datasets:
        _check_subset(subset)
    for split in study.splits:
        _check_split(study, split)
        for name, spec in study.specs(split).items():
            _check_method(name, spec, together=study.together)
    for name in study.controls:
        if name not in (*REFERENCE_PREDICTIONS, *names()):
            raise InputError(f"controls: there is no method {name!r}")
    for claim in study.claims:
        _check_claim(claim)
        _known("[[claims]]", "configuration", claim.configurations, configurations)
        _known("[[claims]]", "split", claim.splits, splits)
    everything = [*configurations, *study.control_specs()]
    for comparison in study.comparisons:
        _known("[[comparisons]]", "configuration", (comparison.first, *comparison.others), everything)
    for table in study.published:
        _known("[[published]]", "configuration", table.columns.values(), everything)
        _known("[[published]]", "split", table.rows, splits)
        for row in table.rows.values():
            if not isinstance(row, dict):
                raise InputError(f"[[published]]: {table.title}: a row is a table of headings and figures, not {row!r}")
            _known("[[published]]", "column", row, list(table.columns))


def _known(where: str, what: str, given: Iterable[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{where}: there is no {what} {name!r}; there are: {', '.join(dict.fromkeys(known))}")


def _check_subset(subset: Subset) -> None:
    for limit in (subset.max_cells, subset.n_top_genes, subset.max_features):
        if limit is not None and limit < 2:
            raise InputError(f"[[datasets]]: {subset.name}: {limit} are too few cells or genes to impute from")
    link(subset.transform)
    given = set(subset.clinical)
    if given - CLINICAL or ("time" in given) != ("event" in given):
        raise InputError(f"[[datasets]]: {subset.name}: clinical names the columns grade, or time and event, or all")


def _check_split(study: Study, split: Hiding) -> None:
    if split.scheme not in SCHEMES:
        raise InputError(f"[[splits]]: there is no scheme {split.scheme!r}: choose one of {', '.join(SCHEMES)}")
    if (split.scale == TOGETHER) != study.together:
        raise InputError(f"[[splits]]: all of a study have scale={TOGETHER!r}, or none")
    if not study.together:
        if split.options or split.datasets or split.coverage:
            raise InputError(f"[[splits]]: options, datasets and coverage go with scale={TOGETHER!r}")
        return
    if split.params:
        raise InputError(
            f"[[splits]]: methods are fitted once for all splits with scale={TOGETHER!r}: leave out params"
        )
    if SCHEMES[split.scheme].kind != "real":
        raise InputError(f"[[splits]]: {split.scheme} hides counts, and scale={TOGETHER!r} is for real values")
    if (split.scheme == "low_coverage") != bool(split.coverage):
        raise InputError("[[splits]]: low_coverage, and it alone, needs the name of a dataset with coverage")
    allowed = [name for name in scheme_options(split.scheme) if name not in OWN]
    _known(f"[[splits]] options of {split.scheme}", "option", split.options, allowed)


def _check_method(name: str, spec: MethodSpec, *, together: bool) -> None:
    cls = get(spec.name)
    try:
        check_parameters(cls, spec.params)
    except InputError as error:
        raise InputError(f"configuration {name!r}: {error}") from error
    if spec.after and (together or not callable(getattr(cls, spec.after, None))):
        raise InputError(f"configuration {name!r}: {spec.name} cannot {spec.after!r} after it is fitted")


def _check_claim(claim: Claim) -> None:
    if claim.kind not in get_args(ClaimKind):
        raise InputError(f"[[claims]]: kind={claim.kind!r} is none of {', '.join(get_args(ClaimKind))}")
    size = len(claim.configurations)
    fits = {**dict.fromkeys(PAIRS, size == 2), "monotone": size >= 2}.get(claim.kind, size == 1)
    if not fits:
        raise InputError(f"[[claims]]: {claim.kind!r} does not go with {size} configurations: {claim.text!r}")
    if claim.kind == "close" and not claim.reference:
        raise InputError(f"[[claims]]: 'close' needs a reference, the metric to be close to: {claim.text!r}")
    low = claim.metric in METRICS and METRICS[claim.metric].better == "lower"
    if claim.kind == "better" and claim.value and not low:
        raise InputError(f"[[claims]]: better by a share goes with metrics that should be low: {claim.text!r}")
