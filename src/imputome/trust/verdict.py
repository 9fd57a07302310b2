"""The verdict on an imputation, from the evidence: ``use``, ``use for visualisation only`` or ``do not impute``.

The rule is a list of criteria, `CRITERIA`. Each allows one verdict at best where it is not met, and the worst of these
is the verdict. How the numbers were chosen, and how the rule then fared on data it had not seen, is in docs/verdict.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from imputome.core.data import Kind
from imputome.evaluation.metrics import MIN_ENTRIES_PER_STRATUM
from imputome.trust.evidence import LOSS, Evidence

RULE = "5"  # its version: any change of a criterion or a number raises it
USE, LOOK, DO_NOT = "use", "use for visualisation only", "do not impute"
VERDICTS = (USE, LOOK, DO_NOT)  # from the best to the worst
FEW = 5  # cells of a label of which nothing is said
NOTHING = "nothing could be measured: no held-out value tells the method from the control"
BINS = 40  # of the histogram of null correlations

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """A verdict.

    Attributes
    ----------
    verdict : one of `VERDICTS`.
    reasons : a sentence each, with its figures; those that decided come first.
    figures : what the rule looked at.
    failed : names of the criteria that were not met.
    """

    verdict: str
    reasons: tuple[str, ...]
    figures: dict[str, float]
    failed: tuple[str, ...]


@dataclass(frozen=True)
class Criterion:
    """One line of the rule.

    Attributes
    ----------
    name : what it is called in tables.
    kinds : kinds of data that it is for.
    at_best : the verdict where it is not met.
    met : from the figures. What a check may go without (`_NEEDS`: a null, intervals, labels) and is NaN is not held
        against the method; everything else is.
    says : the sentence, whether met or not.
    needs : what it takes.
    """

    name: str
    kinds: frozenset[Kind]
    at_best: str
    met: Callable[[Figures], bool]
    says: Callable[[Figures], str]
    needs: str


_COUNTS: frozenset[Kind] = frozenset({"counts"})
_REAL: frozenset[Kind] = frozenset({"real"})

STRUCTURE = 0.002  # of the deviance that the posterior on the gene mean leaves, explained beyond it
RAW = 0.05  # of the deviance of the raw counts, taken away
NULL = 0.05  # mean absolute correlation between permuted genes that imputing adds
TOTAL = 0.02  # of the molecules, too many or too few, beyond twice their counting noise
COVERAGE = (0.85, 0.95)  # of 90 % intervals
MIXED = 0.05  # of a cell's neighbours with its own label, lost
INFORMATION = 0.1  # of the variance of hidden real values, explained


def _percent(share: float) -> str:
    if abs(share) >= 10:
        return f"{share:,.0f} times"
    return f"{100 * share:.{1 if abs(share) >= 0.01 else 2}f} %"


def _better(share: float, than: str) -> str:
    return f"{_percent(abs(share))} {'under' if share >= 0 else 'over'} {than}"


def _structure(f: Figures) -> str:
    gap = _better(f["explained"], "that of each cell's own counts shrunk to the gene mean")
    found = "genes tell of one another" if _learned(f, STRUCTURE) else "that genes tell of one another was not shown"
    return f"{found}: the error (deviance) on held-out molecules is {gap} (95 % interval from {_lower(f)})"


def _lower(f: Figures) -> str:
    low = f["explained_lower"]
    return f"{_percent(abs(low))} {'under' if low >= 0 else 'over'}"


def _learned(f: Figures, least: float) -> bool:
    return f["explained"] >= least and f["explained_lower"] > 0


def _control(f: Figures) -> tuple[str, float]:
    """The control that the method is least ahead of."""
    gains = {name.removeprefix("gain_over_"): gain for name, gain in f.items() if name.startswith("gain_over_")}
    name = min(gains, key=lambda name: gains[name])
    return name, gains[name]


def _information(f: Figures) -> str:
    share, low = f["explained"], f["explained_lower"]
    return (
        f"{_percent(share)} of the variance of hidden values is explained beyond the mean (95 % interval from "
        f"{_percent(low)})"
    )


def _null(f: Figures) -> str:
    excess = f"{f['null_excess']:.2f}".replace("-0.00", "0.00")
    added = f"imputing columns that were permuted, each by itself, adds {excess} to their mean absolute correlation"
    strong = f"{_percent(f['null_strong'])} of the pairs reach 0.5"
    return f"{added}, and {strong}" + (
        "" if f["null_excess"] <= NULL else ": correlations after imputing are no evidence"
    )


def _coverage(f: Figures) -> str:
    low, high = f["coverage_lowest"], f["coverage_highest"]
    return f"90 % intervals cover {_percent(low)} to {_percent(high)} of held-out values, by stratum of the prediction"


CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        "structure",
        _COUNTS,
        DO_NOT,
        lambda f: _learned(f, STRUCTURE),
        _structure,
        f"{_percent(STRUCTURE)} under, and the interval above 0",
    ),
    Criterion("structure", _REAL, DO_NOT, lambda f: f["explained_lower"] > 0, _information, "an interval above 0"),
    Criterion(
        "controls",
        _COUNTS | _REAL,
        DO_NOT,
        lambda f: _control(f)[1] > 0,
        lambda f: f"its error on held-out values is {_better(_control(f)[1], _control(f)[0])}, the closest control",
        "under every control",
    ),
    Criterion(
        "raw counts",
        _COUNTS,
        DO_NOT,
        lambda f: f["gain_over_no_imputation"] >= RAW,
        lambda f: (
            f"its error on held-out molecules is {_better(f['gain_over_no_imputation'], 'that of the raw counts')}"
            + (": they are deep enough as they are" if 0 < f["gain_over_no_imputation"] < RAW else "")
        ),
        f"{_percent(RAW)} under",
    ),
    Criterion(
        "information",
        _REAL,
        LOOK,
        lambda f: f["explained"] >= INFORMATION,
        lambda f: (
            f"what is filled in is {'more than' if f['explained'] >= INFORMATION else 'little more than'} the mean"
        ),
        f"{_percent(INFORMATION)} of the variance",
    ),
    Criterion("null", _COUNTS | _REAL, LOOK, lambda f: not f["null_excess"] > NULL, _null, f"{NULL:.2f} or less"),
    Criterion(
        "totals",
        _COUNTS,
        LOOK,
        lambda f: not abs(f["total_ratio"] - 1) > TOTAL + 2 * f.get("total_noise", 0.0),
        lambda f: f"it predicts {_percent(f['total_ratio'])} of the held-out molecules",
        f"100 %, within {_percent(TOTAL)} and their counting noise",
    ),
    Criterion(
        "intervals",
        _COUNTS | _REAL,
        LOOK,
        lambda f: not (f["coverage_lowest"] < COVERAGE[0] or f["coverage_highest"] > COVERAGE[1]),
        _coverage,
        f"{100 * COVERAGE[0]:.0f} to {100 * COVERAGE[1]:.0f} %",
    ),
    Criterion(
        "labels",
        _COUNTS,
        LOOK,
        lambda f: not f["separation_change"] < -MIXED,
        lambda f: (
            "the share of a cell's neighbours that carry its own label changes by "
            f"{100 * f['separation_change']:+.1f} points"
        ),
        f"{-100 * MIXED:.0f} points or more",
    ),
)
_NEEDS = {"null": "null_excess", "totals": "total_ratio", "intervals": "coverage_lowest", "labels": "separation_change"}


def decide(found: Figures, kind: Kind, *, without: Collection[str] = ()) -> Verdict:
    """The rule: figures in, verdict out.

    Parameters
    ----------
    without : names of criteria that are left out, to see what each is worth.
    """
    said: list[tuple[int, str]] = []
    failed = []
    worst = 0
    for one in CRITERIA:
        unknown = math.isnan(found[_NEEDS.get(one.name, "explained")])
        if kind not in one.kinds or one.name in without or (unknown and one.name in _NEEDS):
            continue
        level = VERDICTS.index(one.at_best) if unknown or not one.met(found) else 0
        if level:
            failed.append(one.name)
        worst = max(worst, level)
        text = NOTHING if unknown else one.says(found)
        said.append((level, f"not met: {text} (needed: {one.needs})" if level and not unknown else text))
    said.sort(key=lambda item: -item[0])  # stable: in the order of the rule where equal
    reasons = dict.fromkeys(text for _, text in said)
    return Verdict(VERDICTS[worst], tuple(reasons), dict(found), tuple(failed))


def judge(evidence: Evidence) -> Verdict:
    """The verdict on the evidence, with what it says of genes beside the reasons."""
    verdict = decide(figures(evidence), evidence.kind)
    found = evidence.reliability
    what = "genes" if evidence.kind == "counts" else "features"
    further = [
        f"{found.evident.sum():,} of {found.measured.sum():,} {what} with enough held out are shown to be predicted "
        f"better than by {evidence.reference}; the table of {what} names the others"
    ]
    for name, mixing in evidence.mixing.items():
        change = 100 * (mixing.after - mixing.before)
        change[mixing.sizes < FEW] = np.inf
        least = int(np.argmin(change))
        if not np.isfinite(change[least]):
            continue
        further.append(
            f"of the labels in {name}, {mixing.labels[least]} ({mixing.sizes[least]:,} cells) lost most of its own "
            f"neighbours: {change[least]:+.1f} points"
        )
    if evidence.unmixed:
        why = "the cells looked at have one label" if evidence.kind == "counts" else "that is for counts"
        further.append(f"whether labels of {', '.join(evidence.unmixed)} mix was not looked at: {why}")
    if evidence.kind == "real":
        further.append("values were hidden at random: those that are missing because they are low are imputed worse")
    return Verdict(verdict.verdict, (*verdict.reasons, *further), verdict.figures, verdict.failed)


def figures(evidence: Evidence) -> dict[str, float]:
    """What the rule looks at, each one number; NaN where it was not measured."""
    loss = LOSS[evidence.kind]
    gains = evidence.gains(loss).mean()
    explained, lower, _ = evidence.reliability.overall
    seen = evidence.reliability.measured
    part = evidence.scores[evidence.scores["method"] == evidence.method]
    total = part.loc[part["metric"] == "total_ratio", "value"].mean()
    found = {"explained": explained, "explained_lower": lower}
    found |= {f"gain_over_{name}": float(value) for name, value in gains.items()}
    found |= {
        "evident_genes": float(evidence.reliability.evident[seen].mean()) if seen.any() else float("nan"),
        "null_excess": evidence.null.excess,
        "null_strong": evidence.null.strong,
        "total_ratio": float(total),
        "total_noise": _counting_noise(evidence),
        "confident_zeros": float(evidence.zeros.confident.sum()) if evidence.zeros is not None else float("nan"),
        "raised": evidence.zeros.raised_share if evidence.zeros is not None else float("nan"),
    }
    coverage = [float("nan")] * 2
    if evidence.calibration is not None:
        filled = evidence.calibration[evidence.calibration["entries"] >= MIN_ENTRIES_PER_STRATUM]["coverage"]
        if len(filled):
            coverage = [float(filled.min()), float(filled.max())]
    found |= {"coverage_lowest": coverage[0], "coverage_highest": coverage[1]}
    moved = [np.average(m.after - m.before, weights=m.sizes) for m in evidence.mixing.values()]
    found["separation_change"] = float(np.min(moved)) if moved else float("nan")
    return found


def _counting_noise(evidence: Evidence) -> float:
    """Standard deviation of the total ratio by the number of molecules held out, all splits together."""
    number = evidence.reliability.held_out.sum()
    return float(1 / np.sqrt(number)) if evidence.kind == "counts" and number > 0 else float("nan")


def record(evidence: Evidence, verdict: Verdict, *, seed: int) -> dict[str, Any]:
    """What goes to ``uns["imputome"][key]["verdict"]``: plain values, string arrays and tables."""
    import pandas as pd

    genes = evidence.reliability.to_frame(evidence.genes)
    if evidence.zeros is not None:
        zeros = evidence.zeros.to_frame(evidence.genes)
        zeros = zeros.rename(columns={"before": "zeros_before", "after": "zeros_after"})
        genes = genes.assign(**{name: zeros[name].to_numpy() for name in zeros})  # by place: names may be there twice
    edges = np.linspace(-1, 1, BINS + 1)
    shares = {
        name: np.histogram(np.clip(values, -1, 1), edges)[0] / max(len(values), 1)
        for name, values in (("before", evidence.null.before), ("after", evidence.null.after))
    }
    found: dict[str, Any] = {
        "verdict": verdict.verdict,
        "reasons": np.array(verdict.reasons, dtype=str),
        "rule": RULE,
        "method": evidence.method,
        "reference": evidence.reference,
        "kind": evidence.kind,
        "cells": evidence.cells,
        "genes_used": len(evidence.genes),
        "fits": evidence.fits,
        "seconds": evidence.seconds,
        "seed": seed,
        "figures": verdict.figures,
        "failed": np.array(verdict.failed, dtype=str),
        "scores": evidence.scores,
        "null": pd.DataFrame({"low": edges[:-1], "high": edges[1:], **shares}),
        "genes": genes,
    }
    if evidence.calibration is not None:
        found["calibration"] = evidence.calibration
    if evidence.mixing:
        found["mixing"] = {name: mixing.to_frame() for name, mixing in evidence.mixing.items()}
    return found
