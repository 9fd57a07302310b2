"""Links: strictly monotone transforms on which real values are imputed, with their inverses.

A few extreme values of a feature can dominate all others; a link reduces their influence. ``asinh`` is for heavy tails
on both sides; ``clip`` limits the values that a method learns from to +-10 (its inverse changes nothing); ``logit``
turns methylation beta values into M-values (Du et al. 2010 compare both) and keeps 0 and 1 finite by an offset;
``neglog`` is the negative logarithm of beta values, on which paper 003 (Qiu et al. 2020) imputes methylation. The paper
does not say how the logarithm of 0 is kept finite: here by the same offset. It is the only link that decreases: the
smallest beta values, missing where few reads cover a site, become the largest values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from imputome.core.methylation import OFFSET, beta_to_m, check_beta, m_to_beta
from imputome.errors import InputError

CLIP_LIMIT = 10.0
MAX_ASINH = 80.0  # float32 can still hold the sinh of this


@dataclass(frozen=True)
class Link:
    """A transform of values of any shape; NaN stays NaN, and float32 stays float32."""

    name: str
    forward: Callable[[np.ndarray], np.ndarray]  # from the unit of the input
    inverse: Callable[[np.ndarray], np.ndarray]  # back to it
    slope: Callable[[np.ndarray], np.ndarray]  # derivative of ``inverse``; variances are multiplied by its square
    increasing: bool = True


def link(name: str) -> Link:
    """The link of that name."""
    if name not in LINKS:
        names = ["none" if known == "identity" else known for known in LINKS]
        text = f"there is no transform {name!r}: choose one of {', '.join(names)}"
        raise InputError(text, code="unknown-transform", parameter="transform")
    return LINKS[name]


def _slope_of_m_values(m: np.ndarray) -> np.ndarray:
    half = np.exp2(-np.abs(m))
    return np.log(2).astype(m.dtype) * (1 + 2 * OFFSET) * half / (1 + half) ** 2


def _negative_log(beta: np.ndarray) -> np.ndarray:
    values = np.asarray(beta)
    check_beta(values)
    return -np.log(values + values.dtype.type(OFFSET))


def _negative_exp(t: np.ndarray) -> np.ndarray:
    return np.clip(_exp_of_minus(t) - t.dtype.type(OFFSET), 0, 1)


def _exp_of_minus(t: np.ndarray) -> np.ndarray:
    return np.exp(-np.maximum(t, -1))  # beta is 1 at t = -0.001, so that this changes nothing but an overflow


def _finite(t: np.ndarray) -> np.ndarray:
    return np.clip(t, -MAX_ASINH, MAX_ASINH)


LINKS: dict[str, Link] = {
    link_.name: link_
    for link_ in (
        Link("identity", np.asarray, np.asarray, np.ones_like),
        Link("asinh", np.arcsinh, lambda t: np.sinh(_finite(t)), lambda t: np.cosh(_finite(t))),
        Link("clip", lambda x: np.clip(x, -CLIP_LIMIT, CLIP_LIMIT), np.asarray, np.ones_like),
        Link("logit", beta_to_m, m_to_beta, _slope_of_m_values),
        Link("neglog", _negative_log, _negative_exp, lambda t: -_exp_of_minus(t), increasing=False),
    )
}
