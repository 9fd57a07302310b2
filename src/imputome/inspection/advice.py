"""Which method suits real values with missing entries: the rules, each with its reason, in one place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FEW_SAMPLES = 10
FEW_FEATURES = 3
MOSTLY_MISSING = 0.8
PER_VALUE = 1e-5  # seconds of one core that gaussian_copula takes for a value of the matrix (benchmarks/bulk.md)
LONGEST = 3600.0  # seconds


@dataclass(frozen=True)
class Advice:
    """What to run.

    Attributes
    ----------
    method : name of a method, None where there is nothing to fill.
    reason : why this one.
    notes : what else should be known or decided first.
    """

    method: str | None
    reason: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {**asdict(self), "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """Sentences."""
        first = f"advised: {self.method} ({self.reason})" if self.method else f"advised: nothing ({self.reason})"
        return [first, *(f"  {note}" for note in self.notes)]


def advise(
    *, n: int, G: int, share: float, mostly_missing: int, empty_features: int, empty_samples: int, low_values: bool
) -> Advice:
    """Choose a method for n samples x G features of real values.

    Parameters
    ----------
    share : missing, of all values.
    mostly_missing : features of which more than `MOSTLY_MISSING` is missing, those without any value included.
    empty_features, empty_samples : without any value.
    low_values : whether values are suspected to be missing because they are low.
    """
    method, reason = advised_method(n, G, share)
    notes = []
    if mostly_missing:
        notes.append(
            f"{mostly_missing:,} features are missing in over {100 * MOSTLY_MISSING:.0f} % of the samples: "
            "consider dropping them, what is filled in there is hardly measured"
        )
    if empty_features or empty_samples:
        notes.append(
            f"{empty_features:,} features and {empty_samples:,} samples hold no value at all: they get a stated "
            "fallback, which is not an estimate"
        )
    if low_values and method not in (None, "mean"):
        notes.append(
            "beta_vae with --shift-correction auto lowers what it fills in; use it only if you know that values are "
            "missing because they are low, for the data alone cannot show it"
        )
    return Advice(method, reason, tuple(notes))


def advised_method(n: int, G: int, share: float) -> tuple[str | None, str]:
    """The method for n samples x G features with a share missing, None where nothing is; and why."""
    if share == 0:
        return None, "no value is missing"
    if n < FEW_SAMPLES:
        return "mean", f"{n} samples are too few to learn from how features vary together"
    if G < FEW_FEATURES:
        return "mean", f"{G} features are too few to predict one from the others"
    if share > MOSTLY_MISSING:
        return "mean", f"{100 * share:.0f} % missing leaves too few samples in which two features are both known"
    hours = PER_VALUE * n * G / 3600
    if PER_VALUE * n * G > LONGEST:
        return "soft_impute", f"gaussian_copula, more exact, would take about {hours:.1f} hours of one core"
    return "gaussian_copula", "the lowest error of all methods measured on real-valued data"
