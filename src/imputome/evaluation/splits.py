"""Hiding values so that methods can be judged: every scheme takes data and a generator and returns a `Split`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imputome.methods.base import Data

if TYPE_CHECKING:
    import scipy.sparse as sp


@dataclass(frozen=True)
class Split:
    """What a method is fitted on, and what it is then judged by.

    Attributes
    ----------
    scheme : name of the scheme.
    train : the data to fit on, with names.
    apply : rows to impute with the fitted method (row splits); None means the rows of ``train``.
    i, j, truth : positions (in ``apply``, or else ``train``) and values of the hidden entries; None under thinning.
    test : (n, G) ``csr_array``, the molecules split off by thinning, judged over all entries; None where entries are
        hidden.
    ratio : depth of ``test`` over that of ``train``: a rate at training depth is scored times this.
    fraction : share of entries, or of molecules, that was really hidden.
    leaky : whether the scheme lets the training part see what is hidden (``as_published`` protocols).
    """

    scheme: str
    train: Data
    apply: Data | None = None
    i: np.ndarray | None = None
    j: np.ndarray | None = None
    truth: np.ndarray | None = None
    test: sp.csr_array | None = None
    ratio: float = 1.0
    fraction: float = 0.0
    leaky: bool = False
