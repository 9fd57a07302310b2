"""Links: strictly increasing transforms that real values are imputed on, with their inverses.

A method standardises features, so that a few values far out decide over all the others. On a link they do not. `LINKS`
names them: ``identity``; ``asinh``, for z-scores and other values with heavy tails on both sides; ``clip``, which cuts
what a method learns from at +-10 and inverts nothing; ``logit``, methylation beta values to M-values, in which 0 and 1
stay finite by an offset (`imputome.core.methylation`; Du et al. 2010 compare both scales).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from imputome.core.methylation import OFFSET, beta_to_m, m_to_beta
from imputome.errors import InputError

BOUND = 10.0  # of ``clip``
FAR = 80.0  # asinh of a value that float32 still holds


@dataclass(frozen=True)
class Link:
    """A transform of values of any shape; NaN stays NaN, and the precision is kept.

    Attributes
    ----------
    forward : from the input's unit.
    inverse : back to it.
    slope : derivative of ``inverse``, at transformed values: variances are multiplied by its square.
    """

    name: str
    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


def link(name: str) -> Link:
    """The link of that name; an unknown one is refused."""
    if name not in LINKS:
        raise InputError(f"there is no transform {name!r}: choose one of {', '.join(LINKS)}")
    return LINKS[name]


def _slope_of_m_values(m: np.ndarray) -> np.ndarray:
    half = np.exp2(-np.abs(m))
    return np.log(2).astype(m.dtype) * (1 + 2 * OFFSET) * half / (1 + half) ** 2


def _within(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -FAR, FAR)


LINKS: dict[str, Link] = {
    known.name: known
    for known in (
        Link("identity", np.asarray, np.asarray, np.ones_like),
        Link("asinh", np.arcsinh, lambda t: np.sinh(_within(t)), lambda t: np.cosh(_within(t))),
        Link("clip", lambda x: np.clip(x, -BOUND, BOUND), np.asarray, np.ones_like),
        Link("logit", beta_to_m, m_to_beta, _slope_of_m_values),
    )
}
