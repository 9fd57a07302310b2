"""Hiding values so that methods can be judged: every scheme takes data and a generator and returns a `Split`.

`SCHEMES` names them all. A new scheme is one function, in `splits_counts` or `splits_real`, and one line here.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from imputome.errors import InputError
from imputome.evaluation import splits_counts, splits_real
from imputome.evaluation.split import Split, row_split
from imputome.methods.base import Data, Kind

__all__ = ["SCHEMES", "Scheme", "Split", "make_split", "row_split", "scheme_options", "seed_for", "trials"]


class Scheme(NamedTuple):
    """A way of hiding values: the function, the kind of data it takes, and one line on what it hides."""

    function: Callable[..., Split]
    kind: Kind
    description: str


SCHEMES: dict[str, Scheme] = {
    "random": Scheme(splits_counts.random, "counts", "a share of the nonzeros, or of each gene's (per_gene)"),
    "double_exponential": Scheme(splits_counts.double_exponential, "counts", "nonzeros, those of low genes more often"),
    "median": Scheme(splits_counts.median, "counts", "every nonzero at or below the median of nonzeros"),
    "thin": Scheme(splits_counts.binomial, "counts", "a share of the molecules (binomial count splitting)"),
    "thin_nb": Scheme(splits_counts.negative_binomial, "counts", "molecules of overdispersed counts, independently"),
    "mcar": Scheme(splits_real.mcar, "real", "a share of the values, completely at random"),
    "features": Scheme(splits_real.features, "real", "whole features in the test rows"),
    "high_gc": Scheme(splits_real.high_gc, "real", "half of the values of the genes with the highest GC content"),
    "low_values": Scheme(splits_real.low_values, "real", "half of the values under a low quantile"),
    "low_coverage": Scheme(splits_real.low_coverage, "real", "half of the values that rest on few reads"),
}


def scheme_options(name: str) -> dict[str, Any]:
    """The options of a scheme with their defaults; an unknown scheme is refused by name."""
    if name not in SCHEMES:
        raise InputError(f"there is no scheme {name!r}: choose one of {', '.join(SCHEMES)}")
    parameters = inspect.signature(SCHEMES[name].function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def make_split(
    name: str, data: Data, *, rng: np.random.Generator, fraction: float | None = None, **options: Any
) -> Split:
    """Hide values by the scheme called ``name``; the data are left as they are.

    Parameters
    ----------
    fraction : share to hide; None takes the scheme's default.
    options : see the scheme's function.

    Raises
    ------
    InputError
        No such scheme, data of the other kind, an option that the scheme does not have, or nothing that can be hidden.
    """
    allowed = scheme_options(name)
    scheme = SCHEMES[name]
    if data.kind != scheme.kind:
        others = ", ".join(other for other, known in SCHEMES.items() if known.kind == data.kind)
        what = {"counts": "counts", "real": "real values"}
        raise InputError(f"{name} hides {what[scheme.kind]}, and these are {what[data.kind]}: choose one of {others}")
    if fraction is not None:
        options["fraction"] = fraction
    for option in options:
        if option not in allowed:
            raise InputError(f"{name} has no option {option!r}; its options: {', '.join(allowed)}")
    return scheme.function(data, rng, **options)


def trials(
    scheme: str, data: Data, *, n: int = 10, seed: int = 0, axes: Sequence[str] = (), **options: Any
) -> Iterator[tuple[int, int, Split]]:
    """Repeat a scheme; yields (trial, its seed, split).

    ``axes`` are the names that tell this series from others, such as the dataset; the scheme's name is added. A trial
    depends on these, on ``seed`` and on its number only: not on ``n``, nor on what ran before it.
    """
    for trial in range(n):
        own = seed_for(*axes, scheme, trial, base=seed)
        yield trial, own, make_split(scheme, data, rng=np.random.default_rng(own), **options)


def seed_for(*axes: Any, base: int = 0) -> int:
    """A seed below 2^53 (JSON keeps it exact) from names and numbers in a fixed order, the same on every machine.

    The text of each goes through SHA-256: Python's own hash of a text changes from process to process.
    """
    digests = [hashlib.sha256(str(axis).encode()).digest() for axis in axes]
    words = [int.from_bytes(digest[:16], "little") for digest in digests]
    return int(np.random.SeedSequence([base, *words]).generate_state(1, np.uint64)[0] >> np.uint64(11))
