"""What every scheme returns, and which rows are test rows. To be imported from `imputome.evaluation.splits`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError
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


def row_split(
    n: int, rng: np.random.Generator, *, test: float = 0.2, labels: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows at random, in equal proportions within each label.

    Parameters
    ----------
    n : number of rows.
    test : share of the rows that are test rows; their number is ``round(test * n)``.
    labels : (n,) of anything that can be compared; missing labels are a class of their own. Each class gives its share
        of the test rows rounded down, and those with the largest remainders (ties at random) one more.

    Returns
    -------
    train, test : positions of the rows, each sorted.

    Raises
    ------
    InputError
        One of the two parts would be empty, or there is not one label for each row.
    """
    import pandas as pd

    check_share("test", test)
    n_test = round(test * n)
    if not 0 < n_test < n:
        raise InputError(f"test={test:g} of {n} rows leaves a part without rows: choose another share")
    if labels is None:
        codes, sizes = np.zeros(n, dtype=np.int64), np.array([n])
    else:
        if len(labels) != n:
            raise InputError(f"{len(labels)} labels were given for {n} rows: give one for each")
        codes = pd.factorize(np.asarray(labels, dtype=object), use_na_sentinel=False)[0]
        sizes = np.bincount(codes)
    exact = sizes * n_test / n
    wanted = np.floor(exact + 1e-9).astype(np.int64)
    order = np.lexsort((rng.random(len(sizes)), -np.round(exact - wanted, 9)))
    wanted[order[: n_test - wanted.sum()]] += 1
    chosen = np.zeros(n, dtype=bool)
    for code, number in enumerate(wanted):
        chosen[rng.choice(np.flatnonzero(codes == code), size=number, replace=False)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def check_share(name: str, value: Any, *, one: bool = False) -> None:
    """Refuse what is no share between 0 and 1 (1 itself is one only with ``one``)."""
    number = isinstance(value, int | float | np.number)
    if not number or not (0 < value < 1 or (one and value == 1)):
        raise InputError(f"{name}={value!r} is no share to hide: choose a number between 0 and 1")
