"""The verdict on an imputation, from the evidence: ``use``, ``use for visualisation only``, ``withheld`` or ``do not
impute``.

The rule is a list of criteria, `CRITERIA`. Each says which verdict is the best possible where it is not met; the worst
of these is the verdict. docs/verdict.md says how the numbers were chosen, and tests the rule on other data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

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
MORE_RAISED = 2.0  # times as many confident zeros raised as the control raises are said to be many
OWN_COUNTS = "your own counts shrunk to the gene mean"  # what the control gene_mean_posterior is
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
    plain: Callable[[Figures], str]  # the same for a reader who knows no statistics
    why: str  # that it is not met, in the sentence that `in_words` begins with


class Measured(NamedTuple):
    """What was measured for one criterion, in plain words."""

    met: bool
    text: str


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


def _better(gain: float) -> str:
    """How much lower the error is than that of a control: ``2.6 % better than``, ``5.0 % worse than``."""
    if abs(gain) < 5e-5:
        return "as well as"
    return f"{_percent(abs(gain))} {'better' if gain > 0 else 'worse'} than"


def _plain_structure(f: Figures) -> str:
    gain, lower = f["explained"], f.get("explained_lower", math.nan)
    sure = ""
    if gain > 0:
        sure = f" (at least {_percent(lower)}, 95 % sure)" if lower > 0 else " (too few cells to be sure)"
    return f"predicts molecules it never saw {_better(gain)} {OWN_COUNTS}{sure}"


def _plain_controls(f: Figures) -> str:
    name, gain = _best_control(f)
    better = "predicts better than every simple control" if gain > 0 else "predicts no better than a simple control"
    return f"{better}: {_better(gain)} {name}, the best of them"


def _plain_raw(f: Figures) -> str:
    gain = f["gain_over_no_imputation"]
    deep = ", which are deep enough to use as they are" if 0 < gain < RAW else ""
    return f"predicts molecules it never saw {_better(gain)} the raw counts{deep}"


def _plain_null(f: Figures) -> str:
    excess = f"{f['null_excess']:+.2f}".replace("-0.00", "+0.00")
    invents = "invents relations between genes" if f["null_excess"] > NULL else "invents no relations between genes"
    return f"{invents}: {excess} mean correlation in shuffled data, where no gene is related to another"


CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        "structure",
        _COUNTS,
        DO_NOT,
        _learned,
        _structure,
        f"an error at least {_percent(STRUCTURE)} lower, and the whole interval lower",
        _plain_structure,
        "it does not predict hidden molecules better than your own counts shrunk to the gene mean",
    ),
    Criterion(
        "structure",
        _REAL,
        DO_NOT,
        lambda f: f["explained_lower"] > 0,
        _explained,
        "an interval above 0",
        lambda f: f"explains {_percent(f['explained'])} of how values that it never saw vary around their mean",
        "it does not predict hidden values better than the mean of the feature",
    ),
    Criterion(
        "controls",
        _COUNTS | _REAL,
        DO_NOT,
        lambda f: _best_control(f)[1] > 0,
        _controls,
        "an error lower than that of every control",
        _plain_controls,
        "a simple control predicts hidden values as well",
    ),
    Criterion(
        "raw counts",
        _COUNTS,
        DO_NOT,
        lambda f: f["gain_over_no_imputation"] >= RAW,
        _raw,
        f"an error at least {_percent(RAW)} lower",
        _plain_raw,
        "the raw counts are good enough as they are",
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
        lambda f: (
            f"{'clearly' if f['explained'] >= INFORMATION else 'only slightly'} closer to the truth than the mean"
        ),
        "imputed values are only slightly closer to the truth than the mean of the feature",
    ),
    Criterion(
        "pattern",
        _REAL,
        WITHHELD,
        lambda f: not f["unlinked"] > MAX_UNLINKED,
        _pattern,
        f"at most {_percent(MAX_UNLINKED)}",
        lambda f: (
            "every missing value could be tried out on values that are known"
            if f["unlinked"] == 0
            else f"{_percent(f['unlinked'])} of the missing values could not be tried out on values that are known"
        ),
        "the data do not show how the missing values are related to the known ones",
    ),
    Criterion(
        "null",
        _COUNTS | _REAL,
        VISUALISE,
        lambda f: not f["null_excess"] > NULL,
        _null,
        f"at most +{NULL:.2f}",
        _plain_null,
        "it makes genes look related that are not",
    ),
    Criterion(
        "totals",
        _COUNTS,
        VISUALISE,
        lambda f: not abs(f["total_ratio"] - 1) > TOTAL + 2 * f.get("total_noise", 0.0),
        lambda f: f"the predicted counts sum to {_percent(f['total_ratio'])} of the held-out molecules",
        f"100 %, within {_percent(TOTAL)} plus twice the counting noise",
        lambda f: f"predicts {_percent(f['total_ratio'])} of the amount of RNA that was hidden",
        "it changes the amount of RNA",
    ),
    Criterion(
        "intervals",
        _COUNTS | _REAL,
        VISUALISE,
        lambda f: not (f["coverage_lowest"] < COVERAGE_RANGE[0] or f["coverage_highest"] > COVERAGE_RANGE[1]),
        _coverage,
        f"{100 * COVERAGE_RANGE[0]:.0f} to {100 * COVERAGE_RANGE[1]:.0f} %",
        lambda f: (
            "its 90 % intervals hold "
            f"{_percent(f['coverage_lowest'])} to {_percent(f['coverage_highest'])} of the values that it never saw"
        ),
        "its intervals are wrong",
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
        lambda f: (
            f"{'mixes' if f['separation_change'] < -MIXED else 'does not mix'} cells of different labels: "
            f"{100 * f['separation_change']:+.1f} percentage points of neighbours with the cell's own label"
        ),
        "it mixes cells of different labels",
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
    for criterion in _criteria(figures, kind):
        if criterion.name in without:
            continue
        unknown = _unknown(criterion, figures)
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


def _criteria(figures: Figures, kind: Kind) -> list[Criterion]:
    """The criteria for one kind of data, without those whose figure may be missing and is."""
    return [
        one for one in CRITERIA if kind in one.kinds and not (one.name in _MAY_BE_MISSING and _unknown(one, figures))
    ]


def _unknown(criterion: Criterion, figures: Figures) -> bool:
    # older figures lack those of new criteria
    return math.isnan(figures.get(_MAY_BE_MISSING.get(criterion.name, "explained"), math.nan))


# -- in plain words ----------------------------------------------------------------------------------------------------
def in_words(verdict: Verdict) -> str:
    """What the result is good for and what not, for a reader who knows no statistics.

    It needs only what every stored verdict has, so that results of earlier versions have it too.
    """
    f, counts = verdict.figures, verdict.kind == "counts"
    not_for = "Not for differential tests" + (", or totals of cells or genes." if counts else ".")
    why = [one.why for one in CRITERIA if verdict.kind in one.kinds and one.name in verdict.failed]
    because = f": {why[0]}" if why else ""
    if verdict.verdict == USE:
        good = "Worth using for plots, gene-gene relations and embeddings"
        gain = f.get("explained", math.nan)
        if counts and gain > 0:
            good += f": it predicts molecules it never saw {_better(gain)} {OWN_COUNTS}"
        elif gain > 0:
            good += f": it explains {_percent(gain)} of how values that it never saw vary"
        return f"{good}. {not_for}"
    if verdict.verdict == VISUALISE:
        return f"Good for pictures, such as plots and embeddings, but not for numbers taken from it{because}. {not_for}"
    if verdict.verdict == WITHHELD:
        return f"It cannot be known whether these values are right{because}. Do not draw conclusions from them."
    keep = "Keep your own counts" if counts else "Keep the measured values"
    return f"Do not use these values{because or ': nothing shows that they are better than simple controls'}. {keep}."


def measurements(verdict: Verdict) -> list[Measured]:
    """What was measured, in plain words: a line for each criterion of the rule; those that are not met come first."""
    f = verdict.figures
    if "structure" in verdict.failed and math.isnan(f.get("explained", math.nan)):
        return [Measured(False, NOTHING_MEASURED)]
    lines = []
    for one in _criteria(f, verdict.kind):
        if _unknown(one, f):
            continue
        met = one.name not in verdict.failed
        lines.append(Measured(met, one.plain(f) + ("" if met else f" (required: {one.required})")))
    known = {one.name for one in CRITERIA}
    if not known.issuperset(verdict.failed) and verdict.reasons:  # decided by something else, which stands first
        lines.append(Measured(False, verdict.reasons[0]))
    return sorted(lines, key=lambda line: line.met)


def accepted(metric: str, figures: Figures) -> tuple[float, float] | None:
    """The range of a held-out score that the rule accepts; None where it is compared with the controls instead."""
    if metric == "coverage_90":
        return COVERAGE_RANGE
    if metric == "total_ratio":
        noise = figures.get("total_noise", 0.0)
        margin = TOTAL + 2 * (0.0 if math.isnan(noise) else noise)
        return 1 - margin, 1 + margin
    return None


def about_zeros(verdict: Verdict) -> str:
    """How many confident zeros the method raises, beside the control; empty if this was not measured.

    The rule does not use this number, which looks like a contradiction of a good verdict where it stands alone.
    """
    f = verdict.figures
    number, raised = f.get("confident_zeros", math.nan), f.get("raised", math.nan)
    if not number > 0 or math.isnan(raised):
        return ""
    above = f"{raised * number:,.0f} get a value above one molecule"
    text = f"of {number:,.0f} zeros that are unlikely to be dropouts, {above}"
    unused = "The rule does not use this number"
    control = f.get("raised_control", math.nan)
    if math.isnan(control):
        return f"{text}. {unused}"
    text += f"; the control {verdict.reference}, which knows no cell types, raises {control * number:,.0f}"
    if raised <= MORE_RAISED * control:
        return f"{text}, so that most of it is not the work of this method. {unused}"
    return f"{text}. Do not read such a value as expression in that cell. {unused}"


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
        "raised_control": nan if evidence.zeros_of_control is None else evidence.zeros_of_control.raised_share,
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
    genes = genes.assign(**{name: zeros[name].to_numpy() for name in zeros})
    control = evidence.zeros_of_control
    return genes if control is None else genes.assign(raised_control=control.raised)
