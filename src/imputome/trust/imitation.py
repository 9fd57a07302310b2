"""How the check hides real values: in the pattern of the values that are missing, as `missingness` reports it.

Values that are hidden at random are easier to impute than missing blocks, or than values missing because they are low.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from imputome.core.data import Data
from imputome.evaluation.patterns import repeated_gaps, repeated_holes
from imputome.evaluation.splits import Split, make_split
from imputome.inspection.missingness import count_missing, pattern, unlinked
from imputome.inspection.tails import low_strength, low_values

LIKE_THE_MISSING = "values were held out in the pattern of the missing ones"


@dataclass(frozen=True)
class Imitation:
    """How values are hidden: a scheme, with the options of the first split, of the second, and so on in turn."""

    scheme: str = "mcar"  # of `imputome.evaluation.splits.SCHEMES`
    ways: tuple[dict[str, Any], ...] = ({},)
    sentence: str = "values were held out at random"
    unlinked: float = float("nan")  # share of the missing values that cannot be imitated; NaN if nothing is missing

    def split(self, data: Data, rng: np.random.Generator, share: float, number: int = 0) -> Split:
        """The split ``number``: hide ``share`` of the values in all rows, or fewer if too little would be left."""
        options = self.ways[number % len(self.ways)]
        return make_split(self.scheme, data, rng=rng, fraction=share, rows="all", **options)

    def __str__(self) -> str:
        """The scheme and its options, for the record."""
        ways = [f"{name}={value}" for way in self.ways for name, value in way.items()]
        return f"{self.scheme} ({', '.join(ways)})" if ways else self.scheme


AT_RANDOM = Imitation()


def imitation_of(data: Data, sample: Data | None = None) -> Imitation:
    """How to hide values in the ``sample`` (None: all) of ``data`` so that they are like the missing values of these.

    - Blocks: with the scheme "blocks", by features in one split and by samples in the next, where both are possible.
    - Values that seem missing because they are low: with "rates", low values as often as the related features show.
    - Shares that differ between features, or samples: with "rates".
    - Otherwise at random; also where nothing can be hidden in the pattern, and then ``unlinked`` is 1.

    Cost: that of `pattern` and `low_values`, and for n samples of the sample O(n^2 G).
    """
    X = data.known_values()
    by_sample, by_feature = count_missing(X)
    if not by_feature.sum():
        return AT_RANDOM
    known = ~np.isnan((data if sample is None else sample).known_values())
    alone = unlinked(known)
    name = pattern(X, by_feature, by_sample).name
    low = low_values(X, by_feature / len(X)).suspected
    if name == "blocks":
        ways = tuple(
            {"by": by}
            for by, repeated in (("features", repeated_gaps), ("samples", repeated_holes))
            if repeated(known, 1, np.random.default_rng(0)).any()
        )
        if not ways:
            return Imitation(sentence="values were held out at random, unlike the missing ones", unlinked=1.0)
        sides = " and ".join(str(way["by"]) for way in ways)
        how = f"whole blocks, made by repeating the holes of {sides} in other {sides}"
        if low:
            how += "; values may also be missing because they are low, and such values may have larger errors"
        return Imitation("blocks", ways, f"{LIKE_THE_MISSING}: {how}", alone)
    if low and (strength := low_strength(X)):
        how = (
            "low values more often, as far as the features related to the missing values are low; the known values "
            "cannot prove that values are missing because they are low"
        )
        return Imitation("rates", ({"low": round(strength, 2)},), f"{LIKE_THE_MISSING}: {how}", alone)
    if name == "random":
        return Imitation("mcar", ({},), f"{LIKE_THE_MISSING}: at random", alone)
    how = "most in the features and samples that lack most"
    return Imitation("rates", ({},), f"{LIKE_THE_MISSING}: {how}", alone)
