"""Values that another tool made of a masked data set: matched with it by name, brought to its scale, and checked.

The result is an `Imputation` of the training part of the split, so that it is scored like any other. Nothing is guessed
from positions: cells and genes are found by their names, which also say whether the matrix is transposed.

Letters: ``n`` cells or samples, ``G`` genes or features of the training part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from imputome.core.data import Data, as_data
from imputome.core.imputation import Imputation, Output, Status
from imputome.core.scales import Scale, scale_to_counts
from imputome.errors import InputError, Message, some
from imputome.evaluation.splits import Split
from imputome.evaluation.told_scale import sampled_cells, scale_of_counts, scale_of_real
from imputome.result.genes import spelled_names

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

VALUES_PER_BLOCK = 2**21  # dense values in memory at a time
_ALONE = "have the tool give them, or score it by itself with `imputome score`, which can score a part"
IDENTIFIERS = "gene_ids"  # column of var, the first of features.tsv
OTHER_UNIT = 2.0  # standard deviations between the known values and those of the tool, root mean square: not one unit


@dataclass(frozen=True)
class Outside:
    """Values that another tool made, as they were read.

    Attributes
    ----------
    name : str
        The name of the tool in tables.
    X : ndarray or csr_array of shape (a, b)
        The values, cells x genes or genes x cells.
    obs_names, var_names : pandas.Index
        Names of the rows, and of the columns.
    scale : str, optional
        Scale of the values of counts, one of `imputome.core.scales.SCALES`; None looks at the values.
    partial : bool or None, default=False
        Whether it may hold a part of the cells and genes, and NaN: then that part is scored. None if the user cannot
        choose this, as where it is compared with methods on the whole.
    layers : tuple of str
        Names of other matrices in the same file, for messages.
    """

    name: str
    X: Any
    obs_names: pd.Index
    var_names: pd.Index
    scale: Scale | None = None
    partial: bool | None = False
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """The values of a tool as an imputation of a split, or of the part of it that they hold."""

    imputation: Imputation  # of the training part of `split`, on the scale of the data
    split: Split
    rows: np.ndarray | None  # positions of the part among the cells, and among the genes, of the whole; None: all
    columns: np.ndarray | None
    scale: Scale  # on which the values were
    transposed: bool
    messages: tuple[Message, ...]

    def part_of(self, imputation: Imputation) -> Imputation:
        """The same part of an imputation of the whole training part."""
        if self.rows is None or self.columns is None:
            return imputation
        part = _Part(imputation, self.rows, self.columns)
        return Imputation(
            part, self.split.train, scale=imputation.scale, keeps_observed=False, status=imputation.status
        )


def with_names_of(outside: Outside, masked: AnnData) -> Outside:
    """The same with the names of the masked data, if its genes have their identifiers (``var["gene_ids"]``).

    A 10x folder holds both, and tools take either.
    """
    if IDENTIFIERS not in masked.var:
        return outside
    names, ids = masked.var_names, masked.var[IDENTIFIERS].astype(str)
    sides = {side: getattr(outside, side).astype(str) for side in ("obs_names", "var_names")}
    by_name, by_id = (max(int(given.isin(known).sum()) for given in sides.values()) for known in (names, ids))
    if by_id <= by_name:
        return outside
    of_id = dict(zip(ids, names, strict=True))
    return replace(outside, **{side: given.map(lambda each: of_id.get(each, each)) for side, given in sides.items()})


def fitted(outside: Outside, split: Split) -> Fitted:
    """Bring the values of a tool into the order and to the scale of a split.

    Parameters
    ----------
    outside : Outside
        The values, with names; counts on any scale, real values in the unit of the data.
    split : Split
        What `imputome.evaluation.masked.read_mask` returns: n cells, G genes, all rows in one part.

    Returns
    -------
    Fitted
        The values as an `Imputation`; for counts on the scale ``counts`` at the depth of the training part, with
        negative values set to 0.

    Raises
    ------
    InputError
        Names that are not those of the split or not unique, cells or genes that are not there, NaN or infinite values
        (both unless ``partial``), or a scale that is not told or contradicts the values.

    Notes
    -----
    Cost: two passes over the values, in blocks; the matrix itself is not copied, except a sparse one that is
    transposed.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from imputome.core.data import as_data
    >>> from imputome.evaluation.outside import Outside, fitted
    >>> from imputome.evaluation.splits import make_split
    >>> data = as_data(np.random.default_rng(0).normal(size=(30, 4)), kind="real", var_names=list("abcd"))
    >>> split = make_split("mcar", data, rng=np.random.default_rng(1), rows="all")
    >>> zeros = Outside("zeros", np.zeros((4, 30)), pd.Index(list("dcba")), data.obs_names)
    >>> result = fitted(zeros, split)
    >>> result.transposed, result.imputation.shape
    (True, (30, 4))
    """
    train = split.train
    found = _found(outside, train)
    messages = list(found.messages)
    found = _checked_parts(found, outside, split)
    whole = bool((found.rows >= 0).all() and (found.columns >= 0).all())
    rows = columns = None
    if not whole:
        rows, columns = np.flatnonzero(found.rows >= 0), np.flatnonzero(found.columns >= 0)
        text = f"{outside.name} holds {len(rows):,} of {len(found.rows):,} cells and {len(columns):,} of "
        text += f"{len(found.columns):,} genes of the masked data: it and the controls are scored on this part"
        messages.append(Message(text, code="result-in-part"))
        split = part_of_split(split, rows, columns, outside.name)
        found = replace(found, rows=found.rows[rows], columns=found.columns[columns])
    values = _Values(found.matrix, found.rows, found.columns)
    if train.kind == "real":
        scale = scale_of_real(outside.scale)
        if message := _other_unit(outside, values, split.train):
            messages.append(message)
    else:
        scale, told = scale_of_counts(outside.name, outside.scale, lambda rows: values.rows(rows, None), split.train)
        messages += told
    _check_changed(outside, values, split.train, scale)
    model = OutsideModel(values, split.train, scale)
    if model.n_negative:
        text = f"{outside.name} holds {model.n_negative:,} negative values (the lowest is {model.lowest:.3g}), which "
        text += "no number of molecules is: they are scored as 0"
        messages.append(Message(text, code="result-negative"))
    on: Scale = "counts" if train.kind == "counts" else "input"
    imputation = Imputation(model, split.train, scale=on, keeps_observed=False, status=Status("exact"))
    return Fitted(imputation, split, rows, columns, scale, found.transposed, tuple(messages))


# -- names -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Found:
    """Where the cells and genes of a split are in a matrix of cells x genes; -1 where one is not there."""

    matrix: Any
    rows: np.ndarray  # (n,)
    columns: np.ndarray  # (G,)
    transposed: bool
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class _Side:
    """The names of one side of the masked data in those of one side of a result."""

    wanted: pd.Index
    given: pd.Index

    @cached_property
    def places(self) -> np.ndarray:
        """(len(wanted),) positions among ``given``; -1 where a name is not there, or there more than once."""
        if self.given.equals(self.wanted):
            return np.arange(len(self.wanted))
        exact = _places(self.wanted, self.given)
        if (exact >= 0).all():
            return exact
        in_r = _places(spelled_names(self.wanted, "r-names"), spelled_names(self.given, "r-names"))
        return in_r if (in_r >= 0).sum() > (exact >= 0).sum() else exact

    @property
    def share(self) -> float:
        return float((self.places >= 0).mean())

    @property
    def twice(self) -> pd.Index:
        """Names that are wanted, and are there more than once."""
        if self.given.equals(self.wanted):
            return self.given[:0]
        repeated = self.given[self.given.duplicated()].unique()
        return repeated[repeated.isin(self.wanted)]

    @property
    def renamed(self) -> bool:
        """Whether names were found that R had changed."""
        at = self.places[self.places >= 0]
        return bool((np.asarray(self.given[at]) != np.asarray(self.wanted[self.places >= 0])).any())


def _places(wanted: pd.Index, given: pd.Index) -> np.ndarray:
    """Positions of names that are on both sides once."""
    if not wanted.is_unique:
        wanted = wanted.where(~wanted.duplicated(keep=False))  # NaN, which no name is
    once = ~given.duplicated(keep=False)
    places = np.flatnonzero(once)
    at = given[once].get_indexer(wanted)
    return np.where(at >= 0, places[np.maximum(at, 0)] if len(places) else -1, -1)


def _found(outside: Outside, train: Data) -> _Found:
    """Find the cells and genes by name, either way round."""
    names = outside.obs_names.astype(str), outside.var_names.astype(str)
    straight = _Side(train.obs_names, names[0]), _Side(train.var_names, names[1])
    turned = _Side(train.obs_names, names[1]), _Side(train.var_names, names[0])
    as_is, other = (min(cells.share, genes.share) for cells, genes in (straight, turned))
    transposed = other > as_is
    cells, genes = turned if transposed else straight
    for side, what in ((cells, "cells"), (genes, "genes")):
        if len(side.twice):
            text = f"{len(side.twice):,} names of {what} are in {outside.name} more than once ({some(side.twice, 3)}): "
            text += "make them unique in the data before values are hidden, or keep one of each"
            raise InputError(text, code="names-not-unique")
    if not min(cells.share, genes.share):
        what = "cells" if not cells.share else "genes"
        wanted = train.obs_names if not cells.share else train.var_names
        text = f"no name of {what} of the masked data ({some(wanted, 3)}) is in {outside.name}, whose rows are "
        text += f"{some(names[0], 3)} and whose columns are {some(names[1], 3)}: write the values with the names of "
        text += "the masked data, and give a result of the same data"
        raise InputError(text, code="names-differ")
    messages = []
    if transposed:
        text = f"{outside.name} has the genes in the rows, as its names say: it was transposed"
        messages.append(Message(text, code="result-transposed"))
    if renamed := [what for side, what in ((cells, "cells"), (genes, "genes")) if side.renamed]:
        text = f"R has changed names of {' and '.join(renamed)} in {outside.name} ('.' for other signs, X before a "
        text += "digit): they were matched all the same"
        messages.append(Message(text, code="result-r-names"))
    extra = [
        f"{number:,} {what}"
        for side, what in ((cells, "cells"), (genes, "genes"))
        if (number := len(side.given) - int((side.places >= 0).sum()))
    ]
    if extra:
        text = f"{' and '.join(extra)} of {outside.name} are not among those in which values were hidden: left out"
        messages.append(Message(text, code="result-extra"))
    matrix = outside.X
    if transposed:
        matrix = matrix.T if isinstance(matrix, np.ndarray) else matrix.T.tocsr()
    return _Found(matrix, cells.places, genes.places, transposed, tuple(messages))


def _checked_parts(found: _Found, outside: Outside, split: Split) -> _Found:
    """Refuse what is not there; with ``partial``, take genes or cells with NaN for absent ones."""
    lacking = []
    for places, names, what in (
        (found.rows, split.train.obs_names, "cells"),
        (found.columns, split.train.var_names, "genes"),
    ):
        if number := int((places < 0).sum()):
            lacking.append(f"{number:,} of {len(places):,} {what} ({some(names[places < 0], 3)})")
    if lacking and not outside.partial:
        text = f"{outside.name} lacks {' and '.join(lacking)} of the masked data: "
        if outside.partial is None:
            raise InputError(f"{text}{_ALONE}", code="result-lacks-names")
        text += "pass {partial} to score the part that it holds, the controls on the same part"
        raise InputError(text, code="result-lacks-names", partial=True)
    bad, asked = _not_finite(found, split)
    if not bad.nnz:
        return found
    options: dict[str, Any] = {"layer": ...} if outside.layers else {}
    instead = f"pass {{layer}} if the values are in one ({', '.join(outside.layers)}), or " if outside.layers else ""
    if bad.nnz == asked[0].sum():
        text = (
            f"no value of {outside.name} that is to be scored is a finite number: {instead}give what the tool imputed"
        )
        raise InputError(text, code="result-all-missing", **options)
    if outside.partial:
        return _without(found, bad, asked, outside.name)
    i, j = (int(places[0]) for places in bad.nonzero())
    where = f"the first in {split.train.obs_names[i]!r}, {split.train.var_names[j]!r}"
    text = f"{outside.name} holds {bad.nnz:,} values that are NaN or infinite among those to score ({where}): {instead}"
    if outside.partial is None:
        raise InputError(f"{text}{_ALONE}", code="result-not-finite", **options)
    text += "pass {partial} to leave out the genes, or the cells, that they are in"
    raise InputError(text, code="result-not-finite", **options, partial=True)


def _not_finite(found: _Found, split: Split) -> tuple[sp.csr_array, tuple[np.ndarray, np.ndarray]]:
    """(n, G) True where a value to score is not finite; (n,) and (G,) how many of a cell or gene are to be scored."""
    n, G = len(found.rows), len(found.columns)
    rows, columns = np.flatnonzero(found.rows >= 0), np.flatnonzero(found.columns >= 0)
    values_of = _Values(found.matrix, found.rows, found.columns)
    if split.test is None and split.train.kind == "real":
        assert split.i is not None and split.j is not None  # noqa: S101, PT018
        there = (found.rows[split.i] >= 0) & (found.columns[split.j] >= 0)
        i, j = split.i[there], split.j[there]
        bad = ~np.isfinite(values_of.at(i, j))
        return sp.csr_array((bad[bad], (i[bad], j[bad])), shape=(n, G)), (
            np.bincount(i, minlength=n),
            np.bincount(j, minlength=G),
        )
    asked = np.where(found.rows >= 0, len(columns), 0), np.where(found.columns >= 0, len(rows), 0)
    stored = found.matrix if isinstance(found.matrix, np.ndarray) else found.matrix.data
    if np.isfinite(stored).all():
        return sp.csr_array((n, G), dtype=bool), asked
    places: list[tuple[np.ndarray, np.ndarray]] = []
    for part in _pieces(len(rows), len(columns)):
        i, j = np.nonzero(~np.isfinite(values_of.rows(rows[part], columns)))
        places.append((rows[part][i], columns[j]))
    i, j = (np.concatenate(each) for each in zip(*places, strict=True))
    return sp.csr_array((np.ones(len(i), dtype=bool), (i, j)), shape=(n, G)), asked


def _without(found: _Found, bad: sp.csr_array, asked: tuple[np.ndarray, np.ndarray], name: str) -> _Found:
    """Take genes, or cells, with values that are not finite for absent ones: those with fewer values to score.

    Cells and genes without any finite value go first, so that one of them does not take all of the others along.
    """
    in_cell, in_gene = bad.sum(axis=1), bad.sum(axis=0)
    no_cell, no_gene = (asked[0] > 0) & (in_cell == asked[0]), (asked[1] > 0) & (in_gene == asked[1])
    rest = bad[~no_cell][:, ~no_gene]
    cells, genes = no_cell.copy(), no_gene.copy()
    cells[~no_cell], genes[~no_gene] = rest.sum(axis=1) > 0, rest.sum(axis=0) > 0
    if asked[1][genes & ~no_gene].sum() <= asked[0][cells & ~no_cell].sum():
        cells = no_cell
    else:
        genes = no_gene
    rows, columns = np.where(cells, -1, found.rows), np.where(genes, -1, found.columns)
    if (rows < 0).all() or (columns < 0).all():
        text = f"each cell and each gene of {name} holds values that are NaN or infinite, so that no part of it can be "
        raise InputError(f"{text}scored: have the tool give them", code="nothing-to-score")
    return replace(found, rows=rows, columns=columns)


def part_of_split(split: Split, rows: np.ndarray, columns: np.ndarray, name: str) -> Split:
    """Some cells and genes of a split, with the library sizes of the whole; ``rows`` and ``columns`` are positions."""
    whole = split.train
    if whole.kind == "counts":
        whole = replace(whole, library_size=whole.depth)
    train = whole.subset(rows=rows, columns=columns)
    if split.test is not None:
        test = as_data(split.test[rows][:, columns], kind="counts").X
        if len(rows) and len(columns) and test.nnz:
            return replace(split, train=train, test=test)
    else:
        assert split.i is not None and split.j is not None and split.truth is not None  # noqa: S101, PT018
        place_i, place_j = (np.full(size, -1) for size in whole.shape)
        place_i[rows], place_j[columns] = np.arange(len(rows)), np.arange(len(columns))
        i, j = place_i[split.i], place_j[split.j]
        kept = (i >= 0) & (j >= 0)
        if kept.any():
            return replace(split, train=train, i=i[kept], j=j[kept], truth=split.truth[kept])
    text = f"nothing was hidden in the cells and genes that {name} holds: have the tool keep more of them"
    raise InputError(text, code="nothing-to-score")


# -- values ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Values:
    """The matrix of a tool in the order of a split; the positions are those of cells and genes that are there."""

    matrix: Any
    row_places: np.ndarray
    column_places: np.ndarray

    def rows(self, rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        """(len(rows), len(genes)) values, float64."""
        columns = self.column_places if genes is None else self.column_places[genes]
        part = self.matrix[self.row_places[rows]]
        part = part[:, columns] if isinstance(part, np.ndarray) else part[:, columns].toarray()
        return np.ascontiguousarray(part, dtype=np.float64)

    def at(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Values of single entries, float64."""
        i, j = self.row_places[i], self.column_places[j]
        if isinstance(self.matrix, np.ndarray):
            return np.asarray(self.matrix[i, j], dtype=np.float64)
        return np.asarray(sp.csr_matrix(self.matrix, copy=False)[i, j], dtype=np.float64).ravel()


class OutsideModel:
    """Values of another tool as the model of an `Imputation`: on the scale ``counts``, or in the unit of the data."""

    outputs: frozenset[Output] = frozenset({"value"})

    def __init__(self, values: _Values, train: Data, scale: Scale) -> None:
        self.values, self.scale, self.is_counts = values, scale, train.kind == "counts"
        self.depth = train.depth if self.is_counts else np.empty(0)
        self.n_negative, self.lowest = self._negative(train.shape) if self.is_counts else (0, 0.0)

    def _negative(self, shape: tuple[int, int]) -> tuple[int, float]:
        number, lowest = 0, 0.0
        for part in _pieces(*shape):
            values = self.values.rows(np.arange(shape[0])[part], None)
            number += int((values < 0).sum())
            lowest = min(lowest, float(values.min()))
        return number, lowest

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        """Dense (len(rows), len(genes)) values; ``genes=None`` means all."""
        values = self.values.rows(rows, genes)
        return self._converted(values, self.depth[rows, None]) if self.is_counts else values

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        """Values of the entries ``(i[k], j[k])``, flat."""
        values = self.values.at(i, j)
        return self._converted(values, self.depth[i]) if self.is_counts else values

    def _converted(self, values: np.ndarray, depth: np.ndarray) -> np.ndarray:
        return scale_to_counts(np.maximum(values, 0.0), depth, self.scale)


class _Part:
    """Some cells and genes of the model of an imputation."""

    def __init__(self, imputation: Imputation, rows: np.ndarray, columns: np.ndarray) -> None:
        self.model, self._rows, self._columns = imputation.model, rows, columns

    @property
    def outputs(self) -> frozenset[Output]:
        return self.model.outputs

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        return self.model.rows(self._rows[rows], self._columns if genes is None else self._columns[genes], output)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return self.model.at(self._rows[i], self._columns[j], output)


def _pieces(n: int, G: int) -> Iterator[slice]:
    step = max(1, VALUES_PER_BLOCK // max(1, G))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


# -- checks of the values -------------------------------------------------------------------------------------------
def _other_unit(outside: Outside, values: _Values, train: Data) -> Message | None:
    """A message if the tool's values of what is known are far from the known values: they may be in another unit."""
    known = train.known_values()
    sd = np.nanstd(np.where(np.isnan(known).all(axis=0), 0.0, known), axis=0)
    squares, number = 0.0, 0
    for part in _pieces(*train.shape):
        mine = values.rows(np.arange(train.shape[0])[part], None)
        gap = (mine - known[part]) / np.where(sd > 0, sd, np.inf)
        good = np.isfinite(gap)
        squares, number = squares + float(np.square(gap[good]).sum()), number + int(good.sum())
    off = float(np.sqrt(squares / max(number, 1)))
    if off < OTHER_UNIT:
        return None
    text = f"where a value is known, {outside.name} differs from it by {off:.3g} standard deviations of the feature "
    text += "(the mean of the feature differs by 1): it seems to be in another unit, so write it in that of the "
    return Message(f"{text}masked data", code="result-other-unit")


def _check_changed(outside: Outside, values: _Values, train: Data, scale: Scale) -> None:
    """Refuse the masked counts themselves if the file has layers, one of which may be meant."""
    if train.kind != "counts" or not outside.layers or scale != "counts":
        return
    cells = sampled_cells(train)
    if (values.rows(cells, None) != train.block(cells)).any():
        return
    text = f"X of {outside.name} is the masked data as they were: pass {{layer}}, one of {', '.join(outside.layers)}"
    raise InputError(text, code="result-unchanged", layer=...)
