"""Which method suits real values with missing entries: the rules and the reason for each."""

from __future__ import annotations

from dataclasses import dataclass

from imputome.core.data import WIDE_FEATURES
from imputome.errors import Message

# on random samples of two glioma sets, gaussian_copula was worse than the mean with 4, level with it with 6, and the
# best of five methods with 8, 20 and 50; its 90 % intervals held half of the hidden values with 4 samples, 66 to 71 %
# with 6, 77 to 82 % with 10, and 85 to 87 % with 20
MIN_SAMPLES_TO_LEARN = 6
MIN_SAMPLES_FOR_INTERVALS = 20
SAMPLES_OF_LOWEST_ERROR = 8
MIN_FEATURES_TO_LEARN = 3
MOSTLY_MISSING = 0.8  # share of missing values
MAX_UNLINKED = 0.05  # share of the missing values that nothing is known about; with more, no verdict is possible
# of one core, for each value of the matrix (benchmarks/bulk.md), and for the regression of each feature; with more
# features these have fewer predictors. 455 x 1,544: 35 s
COPULA_SECONDS_PER_VALUE, COPULA_SECONDS_PER_FEATURE = 1e-5, 0.02
MOST_LARGE_REGRESSIONS = 33_000
MAX_COPULA_SECONDS = 3600.0
# wide tables of up to so many samples are fitted in blocks of features, without regressions of each feature: seconds of
# one core for n samples x G features, in units of n G and of n^2 G, and bytes for each feature beside two matrices
MOST_WIDE_SAMPLES = 1000
WIDE_SECONDS = (6e-7, 6e-10)
WIDE_BYTES_PER_FEATURE, WIDE_BYTES = 700, 2**29


@dataclass(frozen=True)
class Advice:
    """The method to use."""

    method: str | None  # None if nothing is missing
    reason: Message
    notes: tuple[Message, ...]  # what to know or decide before the imputation

    def lines(self) -> list[str]:
        """The advice as sentences; each note is a `Message`."""
        return [f"advised method: {self.method or 'none'} ({self.reason})", *self.notes]


def advise(
    *,
    n: int,
    G: int,
    share: float,
    mostly_missing: int,
    empty_features: int,
    empty_samples: int,
    low_values: bool,
    unlinked: float = 0.0,
) -> Advice:
    """Choose a method for n samples x G features of real values; ``share`` of them is missing.

    ``mostly_missing`` is the number of features with more than a share `MOSTLY_MISSING` missing, also those without
    values; ``low_values`` tells whether values may be missing because they are low; ``unlinked`` is the share of the
    missing values that nothing is known about (`imputome.inspection.missingness.unlinked`).
    """
    method, reason = advised_method(n, G, share)
    notes = []
    if unlinked > MAX_UNLINKED:
        text = (
            f"{100 * unlinked:.0f} % of the missing values are of features that were hardly measured with what is "
            "known of the sample, as on two arrays without a common probe: the data do not show how they are "
            "related, so no method can be expected to be closer to these values than the mean of the feature"
        )
        notes.append(Message(text, code="unlinked-values"))
        if unlinked > 0.5 and method is not None:  # most of what would be imputed
            method, reason = "mean", Message("most missing values cannot be learned from the others", code="unlinked")
    if mostly_missing:
        text = (
            f"{mostly_missing:,} features are missing in over {100 * MOSTLY_MISSING:.0f} % of the samples: consider "
            "removing them, because few measurements support the values imputed there"
        )
        notes.append(Message(text, code="mostly-missing-features"))
    if empty_features or empty_samples:
        text = f"{empty_features:,} features and {empty_samples:,} samples hold no value: they get a fallback value"
        notes.append(Message(text, code="no-observed-values"))
    if method is not None and (note := few_samples(method, n)):
        notes.append(note)
    if low_values and method not in (None, "mean"):
        text = (
            "beta_vae with {shift} lowers the imputed values: use it only if you know that values are missing because "
            "they are low, because the data cannot show this"
        )
        notes.append(Message(text, code="low-values", shift="auto"))
    return Advice(method, reason, tuple(notes))


def advised_method(n: int, G: int, share: float) -> tuple[str | None, Message]:
    """The advised method (None if nothing is missing) and the reason."""
    if share == 0:
        return None, Message("no value is missing", code="nothing-missing")
    if n < MIN_SAMPLES_TO_LEARN:
        text = f"{n} samples are too few to learn how features are correlated: below about {MIN_SAMPLES_TO_LEARN}, "
        text += "gaussian_copula was worse than the mean, and its intervals too narrow"
        return "mean", Message(text, code="few-samples")
    if G < MIN_FEATURES_TO_LEARN:
        return "mean", Message(f"{G} features are too few to predict one from the others", code="few-features")
    if share > MOSTLY_MISSING:
        text = f"{100 * share:.0f} % of the values are missing, so too few samples have both of two features"
        return "mean", Message(text, code="mostly-missing")
    seconds = copula_seconds(n, G)
    if seconds > MAX_COPULA_SECONDS:
        text = f"gaussian_copula is more accurate but would take about {seconds / 3600:.1f} hours on one core"
        return "soft_impute", Message(text, code="copula-too-slow")
    text = f"the lowest error in our benchmarks on tables of {SAMPLES_OF_LOWEST_ERROR} samples or more"
    if n >= SAMPLES_OF_LOWEST_ERROR:
        return "gaussian_copula", Message(text, code="lowest-error")
    return "gaussian_copula", Message(f"{text}; with fewer, others can be better", code="usual-default")


def copula_seconds(n: int, G: int) -> float:
    """About how many seconds of one core ``gaussian_copula`` takes for n samples x G features."""
    if G > WIDE_FEATURES and n <= MOST_WIDE_SAMPLES:
        return WIDE_SECONDS[0] * n * G + WIDE_SECONDS[1] * n**2 * G
    return COPULA_SECONDS_PER_VALUE * n * G + COPULA_SECONDS_PER_FEATURE * min(G, MOST_LARGE_REGRESSIONS)


def wide_cost(method: str, n: int, G: int) -> Message | None:
    """What a default method will cost on a wide table, to say before it begins."""
    if method != "gaussian_copula" or G <= WIDE_FEATURES or n > MOST_WIDE_SAMPLES:
        return None
    seconds = copula_seconds(n, G)
    time = f"{max(1, round(seconds / 60))} minutes" if seconds > 90 else f"{max(10, round(seconds, -1)):.0f} seconds"
    gib = (8 * n * G + WIDE_BYTES_PER_FEATURE * G + WIDE_BYTES) / 2**30
    text = (
        f"{method} on {n:,} samples x {G:,} features takes about {time} of one core and {gib:.1f} GiB of memory; "
        "its weights and intervals are learned on a sample of the features"
    )
    return Message(text, code="wide-cost")


def few_samples(method: str, n: int) -> Message | None:
    """What to know before a method is used on so few samples, if there is something."""
    if method != "gaussian_copula" or n >= MIN_SAMPLES_FOR_INTERVALS:
        return None
    if n < MIN_SAMPLES_TO_LEARN:
        text = (
            f"gaussian_copula is not to be trusted on {n} samples: below about {MIN_SAMPLES_TO_LEARN} its error was "
            "above that of the mean, and its 90 % intervals held half of the hidden values: use the mean"
        )
        return Message(text, code="few-samples-for-copula")
    text = (
        f"{n} samples are few: with 10, the 90 % intervals of gaussian_copula held 77 to 82 % of the hidden values, "
        "and with 6, 66 to 71 %: take them as too narrow, and compare methods on your data first"
    )
    return Message(text, code="few-samples-for-intervals")
