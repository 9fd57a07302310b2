"""What the learned arrays of a method must be: declared by its class, and checked when a model is loaded or saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from imputome.errors import ModelFormatError

Values = Literal["any", "finite", "not negative", "positive", "a share"]

# kinds of numpy for each kind here; other kinds are names of a dtype, such as "float32"
KINDS = {"float": "f", "int": "iu", "bool": "b", "text": "U", "int or text": "iuU"}


@dataclass(frozen=True)
class Learned:
    """What one array must be.

    Attributes
    ----------
    shape : str, default=""
        Its sizes: numbers, and letters that are the same size in all arrays of a model; ``G`` is the number of
        features, ``r``, a rank, can be 0, and the others cannot. ``""`` is a single value, ``"G r"`` a matrix with a
        row for each feature.
    kind : {"float", "int", "bool", "text", "int or text"} or str, default="float"
        What it holds; else the name of the only dtype that it can have.
    values : {"any", "finite", "not negative", "positive", "a share"}, default="finite"
        What its numbers can be; all but ``"any"`` exclude NaN, and all exclude infinity. A share is from 0 to 1.
    below : str, default=""
        For positions: the letter of the size that they are below.
    optional : bool, default=False
        Whether a model can be without it.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.core.learned import Learned, array_fault
    >>> declared = {"components": Learned("G r"), "singular_values": Learned("r", values="not negative")}
    >>> arrays = {"components": np.ones((5, 2)), "singular_values": np.array([2.0, -1.0])}
    >>> array_fault(declared, arrays, n_features=5)
    ('model-array-values', "the array 'singular_values' has values that are negative, NaN, infinite or too large")
    """

    shape: str = ""
    kind: str = "float"
    values: Values = "finite"
    below: str = ""
    optional: bool = False


WRONG = {
    "any": "infinite or too large",
    "finite": "NaN, infinite or too large",
    "not negative": "negative, NaN, infinite or too large",
    "positive": "0, negative, NaN, infinite or too large",
    "a share": "not from 0 to 1",
}


def array_fault(
    declared: Mapping[str, Learned], arrays: Mapping[str, np.ndarray], *, n_features: int
) -> tuple[str, str] | None:
    """The first thing in which ``arrays`` are not what was declared, as a code and words; None if there is none."""
    sizes = {"G": n_features}
    for name, expected in declared.items():
        if name not in arrays:
            if expected.optional:
                continue
            return "model-array-missing", f"the array {name!r} is missing"
        array, letters = arrays[name], expected.shape.split()
        shape = [int(letter) if letter.isdecimal() else sizes.get(letter) for letter in letters]
        if array.ndim != len(letters) or not all(map(_fits, letters, shape, array.shape)):
            wanted = ", ".join(
                str(letter if size is None else size) for letter, size in zip(letters, shape, strict=True)
            )
            return "model-array-shape", f"the array {name!r} has shape {array.shape}, not ({wanted})"
        sizes.update(zip(letters, array.shape, strict=True))
        right = array.dtype.kind in KINDS[expected.kind] if expected.kind in KINDS else array.dtype == expected.kind
        if not right:
            return "model-array-type", f"the array {name!r} holds {array.dtype}, not {expected.kind}"
        if not _allowed(array, expected.values):
            return "model-array-values", f"the array {name!r} has values that are {WRONG[expected.values]}"
        if expected.below and array.size and not 0 <= array.min() <= array.max() < sizes[expected.below]:
            text = f"the array {name!r} has positions that are not from 0 to {sizes[expected.below] - 1}"
            return "model-array-values", text
    return None


def _fits(letter: str, expected: int | None, found: int) -> bool:
    """Whether a size is the one that its letter or number stands for."""
    return found == expected if expected is not None else found > 0 or letter == "r"


def _allowed(array: np.ndarray, values: Values) -> bool:
    if array.dtype.kind not in "fiu" or not array.size:
        return True
    # a value whose square is infinite makes sums infinite, and differences of them NaN
    limit = float(np.sqrt(np.finfo(array.dtype).max)) if array.dtype.kind == "f" else np.inf
    if values == "any":
        return not (np.abs(array) > limit).any()
    low, high = float(array.min()), float(array.max())  # NaN if there is one
    inside = {"finite": True, "not negative": low >= 0, "positive": low > 0, "a share": 0 <= low <= high <= 1}
    return inside[values] and -limit <= low <= high <= limit


def damaged(what: str, *, code: str) -> ModelFormatError:
    """The error for a model that cannot be used as it is; ``what`` is wrong with it."""
    return ModelFormatError(f"{what}: fit the model again, or copy it again from where it came", code=code)
