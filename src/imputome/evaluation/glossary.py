"""What the scores of an evaluation mean, in which range they lie, and where they mislead: `entries`."""

from __future__ import annotations

from dataclasses import dataclass

from imputome.evaluation.known_truth import SHARE
from imputome.evaluation.metrics import COVERAGE, METRICS

# in words, by `Metric.better`
BETTER = {"lower": "lower is better", "higher": "higher is better", "one": "best near 1"}
BETTER["nominal"] = f"best near {COVERAGE:g}"
# the score that decides for each kind of data, as in the check and the race
DECIDING = ("poisson_deviance", "rmse_sd")

_FROM_0, _SHARE, _CORRELATION = "0 and more, 0 is perfect", "0 to 1", "-1 to 1"
_ON_HIDDEN_NONZEROS = "where only nonzeros are hidden, a method that raises every zero is best"
# name -> (range, where it misleads)
_NOTES: dict[str, tuple[str, str]] = {
    "rmse_sd": (_FROM_0 + ", about 1 is the mean of the feature", "values far from all others decide it."),
    "crps_sd": (
        _FROM_0,
        "for a method without intervals it is the mean absolute error, so that methods with and without intervals "
        "differ in more than their values.",
    ),
    "mse": (_FROM_0, f"large values decide it alone; {_ON_HIDDEN_NONZEROS}."),
    "rmse": (_FROM_0 + ", in the unit of the data", f"large values decide it alone; {_ON_HIDDEN_NONZEROS}."),
    "nrmse": (_FROM_0, f"it is for counts only; {_ON_HIDDEN_NONZEROS}."),
    "mae": (_FROM_0 + ", in the unit of the data", f"the median is best for it, not the mean; {_ON_HIDDEN_NONZEROS}."),
    "pearson": (
        _CORRELATION,
        "it does not see a wrong scale or level; over genes of different means, the gene mean alone has a high one.",
    ),
    "cosine": (_CORRELATION, "as `pearson`, and values that are all positive have a high one in any case."),
    "poisson_loss": (
        "any number",
        "the number itself says nothing, because a constant is left out: compare differences only.",
    ),
    "poisson_deviance": (
        _FROM_0 + "; even the true rates have more than 0",
        "it cannot fall to 0, for the held-out molecules are drawn at random: a few percent between methods are much. "
        "A single molecule where 0 was predicted costs 35.",
    ),
    "nll": (
        _FROM_0,
        "it scores the spread of the fitted distribution too, and not the values alone.",
    ),
    "mse_log1p": (
        _FROM_0,
        "on sparse counts all zeros are better than the true rates, so that no best is marked.",
    ),
    "total_ratio": (
        "0 and more",
        "a right total says nothing of single values. Above 1 the values are too large, as where zeros were filled "
        "with values of nonzeros.",
    ),
    "share_of_zeros_raised": (
        _SHARE,
        "all zeros have 0, so that no best is marked. Under thin and thin_nb its zeros are those of the held-out part, "
        "and values are at its depth: a gene with many molecules in a cell can have none in the held-out part by "
        "chance. So even the counts as they are (no_imputation), and the true rates, are above 0; compare with these.",
    ),
    "coverage_90": (
        _SHARE,
        "of counts it is the stratum of predicted means that is furthest from 0.9, not the average. It says nothing of "
        "how wide the intervals are: intervals of the gene mean cover well too.",
    ),
    "open_problems_mse": (_FROM_0, "as `mse_log1p`: all zeros are better than every method."),
    "open_problems_poisson": (
        "any number",
        "truth and prediction are swapped, so that predicting little is rewarded (docs/open_problems.md).",
    ),
    "open_problems_poisson_corrected": ("any number", "as `poisson_loss`."),
}
# scores of --downstream, which compare analyses of the imputed values with known classes or with the complete data, and
# that of simulations
_OTHERS: dict[str, tuple[str, str, str]] = {
    "ari": ("adjusted Rand index of k-means clusters and the classes", _CORRELATION, "classes were often found by "
            "clustering themselves; a method that smooths cells of one cluster together raises it."),
    "ami": ("adjusted mutual information of k-means clusters and the classes", _SHARE, "as `ari`."),
    "nmi": ("normalised mutual information of k-means clusters and the classes", _SHARE, "as `ari`; it is above 0 by "
            "chance, the more the more clusters there are."),
    "leiden_ari": ("`ari` of Leiden clusters", _CORRELATION, "as `ari`; the resolution decides the clusters."),
    "leiden_ami": ("`ami` of Leiden clusters", _SHARE, "as `leiden_ari`."),
    "leiden_nmi": ("`nmi` of Leiden clusters", _SHARE, "as `leiden_ari` and `nmi`."),
    "precision": ("share of the differential genes found that are differential in the reference", _SHARE,
                  "it is high for a method that finds one gene."),
    "recall": ("share of the differential genes of the reference that are found", _SHARE,
               "it is high for a method that calls every gene differential."),
    "tnr": ("share of the other genes that are not found", _SHARE, "it is high for a method that finds no gene."),
    SHARE: ("of simulated counts, the way from the posterior of the gene mean (0) to that of the true rates (1), in "
            "`poisson_loss`", "1 is perfect, below 0 is worse than the control",
            "1 cannot be reached: the gene programs must be learned from the cells."),
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One score: what it is, which way is better, its range, and where it misleads."""

    name: str
    what: str
    better: str
    range: str
    misleads: str


def entries() -> list[Entry]:
    """All scores, those of `METRICS` first.

    Examples
    --------
    >>> from imputome.evaluation.glossary import entries
    >>> next(entry.better for entry in entries() if entry.name == "total_ratio")
    'best near 1'
    """
    scores = [
        Entry(name, metric.description, BETTER[metric.better], *_NOTES.get(name, ("", "")))
        for name, metric in METRICS.items()
    ]
    others = [
        Entry(name, what, BETTER["higher"], limits, misleads) for name, (what, limits, misleads) in _OTHERS.items()
    ]
    return [*scores, *others]
