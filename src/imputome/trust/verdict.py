"""The verdict on an imputation, from the evidence: ``use``, ``use for visualisation only``, ``withheld`` or ``do not
impute``.

The rule is a list of criteria, `CRITERIA`. Each says which verdict is the best possible where it is not met; the worst
of these is the verdict. docs/verdict.md says how the numbers were chosen, and tests the rule on other data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from imputome.core.data import Kind
from imputome.evaluation.metrics import MIN_ENTRIES_PER_STRATUM
from imputome.inspection.advice import MAX_UNLINKED
from imputome.result.record import Verdict
from imputome.trust.evidence import LOSS, Evidence
from imputome.trust.null import NullCorrelation
from imputome.trust.reliability import MIN_HELD_OUT, SMALLEST_GAIN

if TYPE_CHECKING:
    import pandas as pd

RULE = "6"  # version of the rule: a change of any criterion or number needs a new one
USE, VISUALISE, DO_NOT = "use", "use for visualisation only", "do not impute"
WITHHELD = "withheld"  # values cannot be held out as they are missing, so that it is not known what imputing them gains
VERDICTS = (USE, VISUALISE, WITHHELD, DO_NOT)  # from the best to the worst
MIN_CELLS_OF_LABEL = 5  # labels with fewer are not reported
NOTHING_MEASURED = "nothing could be measured: no held-out value allows a comparison of the method with the control"
MIN_ENTRIES_TOGETHER = 300  # held out in a pattern, where no stratum has enough: then all strata are judged as one
NULL_BINS = 40  # of the histogram of null correlations

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Criterion:
    """One criterion of the rule."""

    name: str
    kinds: frozenset[Kind]  # of data
    at_best: str  # the best possible verdict where it is not met
    met: Callable[[Figures], bool]  # a figure that is NaN counts as not met, except those of `_MAY_BE_MISSING`
    sentence: Callable[[Figures], str]  # what was measured, whether met or not
    required: str


_COUNTS: frozenset[Kind] = frozenset({"counts"})
_REAL: frozenset[Kind] = frozenset({"real"})

STRUCTURE = 0.002  # share of the deviance of the posterior on the gene mean that the method explains
RAW = 0.05  # share of the deviance of the raw counts that the method explains
NULL = 0.05  # mean absolute correlation between permuted genes that imputing adds
TOTAL = 0.02  # share of the molecules, too many or too few, beyond twice their counting noise
COVERAGE_RANGE = (0.85, 0.95)  # of 90 % intervals
MIXED = 0.05  # share of a cell's neighbours with its own label that is lost
INFORMATION = 0.1  # share of the variance of held-out real values that the method explains


def _percent(share: float) -> str:
    digits = 0 if abs(share) >= 10 else 1 if abs(share) >= 0.01 else 2
    return f"{100 * share:,.{digits}f} %"


def _below(gain: float) -> str:
    """The method's error compared with "that of" a control: ``2.0 % below``, ``5.0 % above``, ``24 times``."""
    if abs(gain) < 5e-5:
        return "equal to"
    if gain <= -10:
        return f"{1 - gain:,.0f} times"
    return f"{_percent(abs(gain))} {'below' if gain >= 0 else 'above'}"


def _structure(f: Figures) -> str:
    return (
        f"the method's error on held-out molecules is {_below(f['explained'])} that of the control gene_mean_posterior "
        f"({_interval(f)})"
    )


def _interval(f: Figures) -> str:
    """Both ends of the interval of the error, in the words of `_below`: ``3.1 % above to 1.2 % below``."""
    if math.isnan(f["explained_lower"]):
        return "too few cells for an interval"
    ends = [_below(f["explained_lower"]), _below(f.get("explained_upper", math.nan))]
    ends = ["equal" if end == "equal to" else end for end in ends]
    return f"95 % interval: {ends[0]} to {ends[1]}" if "explained_upper" in f else f"95 % interval: from {ends[0]}"


def _learned(f: Figures) -> bool:
    return f["explained"] >= STRUCTURE and f["explained_lower"] > 0


def _best_control(f: Figures) -> tuple[str, float]:
    """The control with the lowest error, and how far the method's error is below it, as a share."""
    gains = {name.removeprefix("gain_over_"): gain for name, gain in f.items() if name.startswith("gain_over_")}
    name = min(gains, key=lambda name: gains[name])
    return name, gains[name]


def _controls(f: Figures) -> str:
    name, gain = _best_control(f)
    return f"the method's error on held-out values is {_below(gain)} that of {name}, the best control"


def _raw(f: Figures) -> str:
    gain = f["gain_over_no_imputation"]
    deep = ": the raw counts are deep enough to use without imputation" if 0 < gain < RAW else ""
    return f"the method's error on held-out molecules is {_below(gain)} that of the raw counts{deep}"


def _explained(f: Figures) -> str:
    lower = f["explained_lower"]
    few = math.isnan(lower)
    interval = "too few samples for an interval" if few else f"lower end of the 95 % interval: {_percent(lower)}"
    return (
        f"the method explains {_percent(f['explained'])} of the variance of held-out values around the feature mean "
        f"({interval})"
    )


def _pattern(f: Figures) -> str:
    if f["unlinked"] == 0:
        return "the missing values can be imitated by hiding others"
    share = f"{_percent(f['unlinked'])} of the missing values cannot be imitated by hiding others"
    if f["unlinked"] <= MAX_UNLINKED:
        return share
    return (
        f"{share}: too few samples have both such a feature and one that is known where it is missing, so the data do "
        "not show how the two are related, and what was measured on other values says nothing about these"
    )


def _null(f: Figures) -> str:
    excess = f"{f['null_excess']:+.2f}".replace("-0.00", "+0.00")
    return (
        f"in permuted data, where no true correlations are left, imputation changes the mean absolute correlation by "
        f"{excess}, and {_percent(f['null_strong'])} of the pairs have an absolute correlation of 0.5 or more"
        + ("" if f["null_excess"] <= NULL else ": correlations between imputed values may be false")
    )


def _coverage(f: Figures) -> str:
    low, high = f["coverage_lowest"], f["coverage_highest"]
    return (
        f"the 90 % intervals contain {_percent(low)} to {_percent(high)} of held-out values, depending on the "
        "predicted value"
    )


CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        "structure",
        _COUNTS,
        DO_NOT,
        _learned,
        _structure,
        f"at least {_percent(STRUCTURE)} below, and the whole interval below",
    ),
    Criterion("structure", _REAL, DO_NOT, lambda f: f["explained_lower"] > 0, _explained, "an interval above 0"),
    Criterion(
        "controls",
        _COUNTS | _REAL,
        DO_NOT,
        lambda f: _best_control(f)[1] > 0,
        _controls,
        "lower than that of every control",
    ),
    Criterion(
        "raw counts",
        _COUNTS,
        DO_NOT,
        lambda f: f["gain_over_no_imputation"] >= RAW,
        _raw,
        f"at least {_percent(RAW)} below",
    ),
    Criterion(
        "information",
        _REAL,
        VISUALISE,
        lambda f: f["explained"] >= INFORMATION,
        lambda f: (
            f"imputed values are {'clearly' if f['explained'] >= INFORMATION else 'only slightly'} closer to the truth "
            "than the feature mean"
        ),
        f"at least {_percent(INFORMATION)} of the variance explained",
    ),
    Criterion(
        "pattern",
        _REAL,
        WITHHELD,
        lambda f: not f["unlinked"] > MAX_UNLINKED,
        _pattern,
        f"at most {_percent(MAX_UNLINKED)}",
    ),
    Criterion("null", _COUNTS | _REAL, VISUALISE, lambda f: not f["null_excess"] > NULL, _null, f"at most +{NULL:.2f}"),
    Criterion(
        "totals",
        _COUNTS,
        VISUALISE,
        lambda f: not abs(f["total_ratio"] - 1) > TOTAL + 2 * f.get("total_noise", 0.0),
        lambda f: f"the predicted counts sum to {_percent(f['total_ratio'])} of the held-out molecules",
        f"100 %, within {_percent(TOTAL)} plus twice the counting noise",
    ),
    Criterion(
        "intervals",
        _COUNTS | _REAL,
        VISUALISE,
        lambda f: not (f["coverage_lowest"] < COVERAGE_RANGE[0] or f["coverage_highest"] > COVERAGE_RANGE[1]),
        _coverage,
        f"{100 * COVERAGE_RANGE[0]:.0f} to {100 * COVERAGE_RANGE[1]:.0f} %",
    ),
    Criterion(
        "labels",
        _COUNTS,
        VISUALISE,
        lambda f: not f["separation_change"] < -MIXED,
        lambda f: (
            "the share of neighbours that have the same label as the cell changes by "
            f"{100 * f['separation_change']:+.1f} percentage points"
        ),
        f"a loss of at most {100 * MIXED:.0f} percentage points",
    ),
)
# criterion -> its figure, which a check may lack (no intervals, no labels): the criterion is then left out
_MAY_BE_MISSING = {
    "pattern": "unlinked",
    "null": "null_excess",
    "totals": "total_ratio",
    "intervals": "coverage_lowest",
    "labels": "separation_change",
}


def decide(figures: Figures, kind: Kind, *, without: Collection[str] = ()) -> Verdict:
    """Apply the rule to the `figures`; the verdict has no tables.

    ``without`` names criteria to leave out, to see what each of them changes.
    """
    sentences: list[tuple[int, str]] = []
    failed = []
    worst = 0
    for criterion in CRITERIA:
        figure = _MAY_BE_MISSING.get(criterion.name)
        unknown = math.isnan(figures.get(figure or "explained", math.nan))  # older figures lack those of new criteria
        if kind not in criterion.kinds or criterion.name in without or (unknown and figure):
            continue
        level = VERDICTS.index(criterion.at_best) if unknown or not criterion.met(figures) else 0
        if level:
            failed.append(criterion.name)
        worst = max(worst, level)
        text = NOTHING_MEASURED if unknown else criterion.sentence(figures)
        sentences.append(
            (level, f"not met: {text} (required: {criterion.required})" if level and not unknown else text)
        )
    sentences.sort(key=lambda item: -item[0])  # stable: in the order of the rule where equal
    reasons = tuple(dict.fromkeys(text for _, text in sentences))
    return Verdict(VERDICTS[worst], reasons, dict(figures), tuple(failed), rule=RULE, kind=kind)


def verdict_of(evidence: Evidence, *, seed: int = 0) -> Verdict:
    """The verdict on the evidence, with its tables, and further reasons about genes and labels."""
    verdict = decide(figures(evidence), evidence.kind)
    return replace(
        verdict,
        reasons=(*verdict.reasons, *_further_reasons(evidence)),
        method=evidence.method,
        reference=evidence.reference,
        cells=evidence.cells,
        genes_used=len(evidence.genes),
        fits=evidence.fits,
        seconds=evidence.seconds,
        seed=seed,
        held_out="thin" if evidence.kind == "counts" else str(evidence.imitation),
        scores=evidence.scores,
        **({} if evidence.null is None else {"null": _null_histogram(evidence.null)}),
        genes=_gene_table(evidence),
        mixing={name: mixing.to_frame() for name, mixing in evidence.mixing.items()},
        **({} if evidence.calibration is None else {"calibration": evidence.calibration}),
    )


def _further_reasons(evidence: Evidence) -> list[str]:
    reliability = evidence.reliability
    columns, unit = ("genes", "molecules") if evidence.kind == "counts" else ("features", "values")
    reasons = [
        f"{reliability.evident.sum():,} of {reliability.measured.sum():,} {columns} with at least {MIN_HELD_OUT} "
        f"held-out {unit} are shown to be predicted better than by {evidence.reference} by more than "
        f"{_percent(SMALLEST_GAIN)} (false discovery rate 5 %)"
    ]
    for name, mixing in evidence.mixing.items():
        change = 100 * (mixing.after - mixing.before)
        change[mixing.sizes < MIN_CELLS_OF_LABEL] = np.inf
        least = int(np.argmin(change))
        if np.isfinite(change[least]):
            reasons.append(
                f"of the labels in {name}, {mixing.labels[least]} ({mixing.sizes[least]:,} cells) has the lowest "
                f"change in the share of neighbours with the same label: {change[least]:+.1f} percentage points"
            )
    if evidence.unmixed:
        why = "the sampled cells all have one label" if evidence.kind == "counts" else "it needs counts"
        reasons.append(f"mixing of the labels in {', '.join(evidence.unmixed)} was not measured: {why}")
    if evidence.kind == "real":
        reasons.append(evidence.imitation.sentence)
    return reasons


def figures(evidence: Evidence) -> dict[str, float]:
    """The numbers that the rule looks at; NaN where one was not measured."""
    nan = float("nan")
    gains = evidence.gains(LOSS[evidence.kind]).loc[list(evidence.worst_splits)].mean()
    explained, lower, upper = evidence.explained
    measured = evidence.reliability.measured
    scores = evidence.scores[evidence.scores["method"] == evidence.method]
    total = scores.loc[scores["metric"] == "total_ratio", "value"].mean()
    numbers = {"explained": explained, "explained_lower": lower, "explained_upper": upper}
    numbers |= {f"gain_over_{name}": float(value) for name, value in gains.items()}
    numbers |= {
        "evident_genes": float(evidence.reliability.evident[measured].mean()) if measured.any() else nan,
        "null_excess": nan if evidence.null is None else evidence.null.excess,
        "null_strong": nan if evidence.null is None else evidence.null.strong,
        "total_ratio": float(total),
        "total_noise": _counting_noise(evidence),
        "confident_zeros": float(evidence.zeros.confident.sum()) if evidence.zeros is not None else nan,
        "unlinked": evidence.imitation.unlinked,
        "raised": evidence.zeros.raised_share if evidence.zeros is not None else nan,
    }
    low = high = nan
    if evidence.calibration is not None:
        table = evidence.calibration
        coverage = table.loc[table["entries"] >= MIN_ENTRIES_PER_STRATUM, "coverage"]
        like_missing = evidence.imitation.scheme != "mcar"
        if like_missing and len(coverage) == 0 and table["entries"].sum() >= MIN_ENTRIES_TOGETHER:
            coverage = np.array([(table["coverage"] * table["entries"]).sum() / table["entries"].sum()])
        if len(coverage):
            low, high = float(coverage.min()), float(coverage.max())
    changes = [np.average(mixing.after - mixing.before, weights=mixing.sizes) for mixing in evidence.mixing.values()]
    separation = float(np.min(changes)) if changes else nan
    return {**numbers, "coverage_lowest": low, "coverage_highest": high, "separation_change": separation}


def _counting_noise(evidence: Evidence) -> float:
    """Standard deviation of the total ratio from the number of molecules held out, all splits together."""
    number = evidence.reliability.held_out.sum()
    return float(1 / np.sqrt(number)) if evidence.kind == "counts" and number > 0 else float("nan")


def _null_histogram(null: NullCorrelation) -> pd.DataFrame:
    """Shares of pairs of permuted genes by their correlation."""
    import pandas as pd

    edges = np.linspace(-1, 1, NULL_BINS + 1)
    shares = {
        name: np.histogram(np.clip(values, -1, 1), edges)[0] / max(len(values), 1)
        for name, values in (("before", null.before), ("after", null.after))
    }
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], **shares})


def _gene_table(evidence: Evidence) -> pd.DataFrame:
    genes = evidence.reliability.to_frame(evidence.genes)
    if evidence.zeros is None:
        return genes
    zeros = evidence.zeros.to_frame(evidence.genes)
    zeros = zeros.rename(columns={"before": "zeros_before", "after": "zeros_after"})
    # by position, since a name may occur twice
    return genes.assign(**{name: zeros[name].to_numpy() for name in zeros})
