"""The record of a result in ``uns["imputome"][key]``: written, read and searched here alone.

A record also lists every place in the AnnData where the result stands (`places`), so that removing the result takes
these and nothing else.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from imputome.core.data import Kind
from imputome.core.imputation import Status
from imputome.core.scales import SCALES, Scale
from imputome.errors import InputError
from imputome.result.matrices import draw_names

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from imputome.core.imputation import Imputation

SCHEMA = 2  # of the stored record; version 0.1.0 wrote no number, which counts as 1
KINDS = ("counts", "real")
# methods of 0.1.0 whose results have no ``obsm["X_<key>"]``, which its records do not say
WITHOUT_LATENT = frozenset(
    ("no_imputation", "gene_mean", "gene_mean_posterior", "random", "mean", "median", "knn", "gaussian_copula")
)
BRIEF = ("verdict", "reasons", "failed", "rule", "figures", "cells", "fits", "seconds")  # of a verdict, in a summary


def _no_table() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame()


class _Stored:
    """A frozen dataclass that is stored as a mapping: the annotation of a field says how the field is stored.

    Fields that are None and empty tables are left out, since not every AnnData format holds them.
    """

    def to_uns(self) -> dict[str, Any]:
        """Plain values, string arrays, tables and nested dictionaries of these, which .h5ad and .zarr can hold."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        return {
            name: _WRITERS.get(type(value), _same)(value)
            for name, value in values.items()
            if value is not None and not (hasattr(value, "columns") and value.empty)
        }

    @classmethod
    def from_uns(cls, values: Any, *, where: str = "uns['imputome']") -> Self:
        """Read what `to_uns` wrote, from memory or as a file gives it back.

        Parameters
        ----------
        values : Mapping
            What is stored.
        where : str, default="uns['imputome']"
            Where that stands, for the message of an error.

        Raises
        ------
        InputError
            A field is missing or is of another type.
        """
        if not isinstance(values, Mapping):
            raise _malformed(where, f"it is a {type(values).__name__}")
        arguments = {}
        for each in fields(cls):  # type: ignore[arg-type]
            if values.get(each.name) is None:
                continue
            try:
                arguments[each.name] = _READERS[str(each.type)](values[each.name])
            except InputError:
                raise
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise _malformed(where, f"its {each.name!r} cannot be read ({error})") from error
        try:
            return cls(**arguments)
        except TypeError as error:  # a field without a default
            raise _malformed(where, str(error).rpartition("() ")[2]) from error


def _malformed(where: str, reason: str) -> InputError:
    return InputError(
        f"{where} is not a record that imputome wrote: {reason}; delete it and impute again", code="record-malformed"
    )


# -- the parts of a record ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Input(_Stored):
    """The matrix that was imputed.

    Attributes
    ----------
    state : str
        ``"counts"``, ``"normalized"``, ``"log1p"``, or a state of real values.
    kind : {"counts", "real"}
    layer : str or None
        Name of the layer; None for ``X``.
    where : str
        The same for a reader: ``"X"`` or ``"layers['counts']"``.
    """

    state: str
    kind: Kind
    layer: str | None = None
    where: str = "X"


@dataclass(frozen=True)
class Verdict(_Stored):
    """Whether to use an imputation, the reasons, and the measurements.

    A table is empty where it was not measured.

    Attributes
    ----------
    verdict : {"use", "use for visualisation only", "do not impute"}
    reasons : tuple of str
        A sentence each; those that decided come first.
    figures : dict of str to float
        The numbers that the rule looked at; NaN where one was not measured.
    failed : tuple of str
        Names of the criteria that were not met.
    rule : str
        Version of the rule.
    method, reference : str
        The method that was checked, and the control that its genes were compared with.
    kind : {"counts", "real"}
    cells, genes_used, fits : int
        Size of the sample, and number of fits.
    seconds : float
    seed : int
    scores : pandas.DataFrame
        Held-out scores: a row for each method, split and metric.
    null : pandas.DataFrame
        Histogram of the correlations between permuted genes, before and after imputing.
    genes : pandas.DataFrame
        A row for each gene: what the method explains of it, and its zeros.
    calibration : pandas.DataFrame
        Coverage of the 90 % intervals by stratum of the prediction.
    mixing : dict of str to pandas.DataFrame
        For each column of labels, how the neighbours of the cells changed.
    """

    verdict: str
    reasons: tuple[str, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    rule: str = ""
    method: str = ""
    reference: str = ""
    kind: Kind = "counts"
    cells: int = 0
    genes_used: int = 0
    fits: int = 0
    seconds: float = 0.0
    seed: int = 0
    scores: pd.DataFrame = field(default_factory=_no_table)
    null: pd.DataFrame = field(default_factory=_no_table)
    genes: pd.DataFrame = field(default_factory=_no_table)
    calibration: pd.DataFrame = field(default_factory=_no_table)
    mixing: dict[str, pd.DataFrame] = field(default_factory=dict)

    def brief(self) -> dict[str, Any]:
        """The verdict without its tables, for a summary in JSON."""
        return {name: value for name, value in self.to_uns().items() if name in BRIEF}


@dataclass(frozen=True)
class Race(_Stored):
    """How ``method="auto"`` chose a method.

    Attributes
    ----------
    candidates : pandas.DataFrame
        A row for each candidate, the best first: ``name``, ``method``, ``parameters`` (JSON), ``control``, ``score``,
        ``sd``, ``splits``, ``seconds``, ``outcome``. A score is the mean ratio of the candidate's error to that of the
        reference control on the same split, times the mean error of the reference: so candidates that ran on one split
        only are compared fairly.
    winner : str
        Name of the best candidate that can be fitted to all data in the time there is; a control if none is better.
    control : str
        Name of the best control; empty in records of version 0.1.0.
    metric : str
        The error; lower is better.
    cells, genes : int
        Size of the sample.
    seconds : float
        Duration of the race.
    gain : float
        By which share the winner's error is below that of the best control; 0 if a control won.
    seconds_for_all, seconds_for_controls : float
        Expected duration of the winner's fit to all data, and of the fits of all controls together.
    budget_minutes : float
        What the user allowed for everything.
    seed : int
    instead : str
        Why a control was written although it did not win; usually empty.
    """

    candidates: pd.DataFrame
    winner: str
    control: str = ""
    metric: str = "score"
    cells: int = 0
    genes: int = 0
    seconds: float = 0.0
    gain: float = float("nan")
    seconds_for_all: float = float("nan")
    seconds_for_controls: float = float("nan")
    budget_minutes: float = float("nan")
    seed: int = 0
    instead: str = ""

    @property
    def why_control(self) -> str:
        """Why a control was written; empty where a method was."""
        row = self.candidates[self.candidates["name"] == self.winner]
        if self.instead or not len(row) or not bool(row["control"].iloc[0]):
            return self.instead
        return f"no method was better than the control {self.winner} on held-out values"

    def brief(self) -> dict[str, Any]:
        """The race with its table as a list of rows, for a summary in JSON."""
        return {**self.to_uns(), "candidates": self.candidates.to_dict("records")}


# -- the record --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Record(_Stored):
    """All that is kept of how a result was made, and where in the AnnData it stands.

    Attributes
    ----------
    method, input, random_state, versions, keep_observed, posterior
        How it was made.
    scale : {"counts", "normalized", "log1p", "input"}
        Of the values.
    params : dict
        Parameters of the method; stored as JSON text, since they may be None or lists.
    transform : str
        The link that real values were imputed on.
    outputs : tuple of str
        What is written beside the value, each to a matrix ``<key>_<output>``.
    draws : int
        Number of multiple imputations written, ``<key>_draw01`` and so on.
    stored_in : tuple of str
        Where the matrices are: ``("layers",)``, or ``("obsm",)`` for some genes of an AnnData with more. Records of
        version 0.1.0 with some genes do not say which: both.
    gene_columns, cell_columns : tuple of str
        Columns ``<key>_<name>`` of ``var`` and of ``obs``.
    latent : bool
        Whether the result has a latent representation, ``obsm["X_<key>"]``.
    genes : tuple of str, or None
        The genes that were written, if not all.
    unusable_cells, unusable_genes, unusable_filled_with
        Those without an observed value, and the fallback for them.
    seconds, peak_memory_bytes
        Duration of the fit, and memory of the process.
    convergence, history
        How the fit ended, and values of each iteration.
    model : str or None
        Folder of the model that was applied; None where the method was fitted to these data.
    trained : dict or None
        What is known of the training of that model.
    genes_missing_from_input : tuple of str
        Genes of that model.
    command : str
        The command line, if there was one.
    race, verdict
        Of ``method="auto"`` and of the check, if there were any.
    """

    method: str
    input: Input
    scale: Scale
    params: dict[str, Any] = field(default_factory=dict)
    random_state: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    transform: str = "identity"
    keep_observed: bool = False
    posterior: bool = False
    outputs: tuple[str, ...] = ()
    draws: int = 0
    stored_in: tuple[str, ...] = ("layers",)
    gene_columns: tuple[str, ...] = ()
    cell_columns: tuple[str, ...] = ()
    latent: bool = False
    genes: tuple[str, ...] | None = None
    unusable_cells: tuple[str, ...] = ()
    unusable_genes: tuple[str, ...] = ()
    unusable_filled_with: str = ""
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    convergence: Status = field(default_factory=Status)
    history: dict[str, np.ndarray] = field(default_factory=dict)
    model: str | None = None
    trained: dict[str, Any] | None = None
    genes_missing_from_input: tuple[str, ...] = ()
    command: str = ""
    race: Race | None = None
    verdict: Verdict | None = None

    def to_uns(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **super().to_uns(), "params": json.dumps(self.params, default=_plain)}

    @classmethod
    def from_uns(cls, values: Any, *, where: str = "uns['imputome']") -> Self:
        """Read a record, of version 0.1.0 too.

        Raises
        ------
        InputError
            A later version of imputome wrote it (``record-too-new``), or it is no record (``record-malformed``).
        """
        if isinstance(values, Mapping):
            try:
                schema = int(values.get("schema", 1))
            except (TypeError, ValueError) as error:
                raise _malformed(where, "its schema is not a number") from error
            if schema > SCHEMA:
                raise InputError(
                    f"{where} has schema {schema} and this version of imputome reads up to {SCHEMA}: update imputome",
                    code="record-too-new",
                )
            if schema < SCHEMA:
                values = _from_first(values)
        return super().from_uns(values, where=where)

    def listing(self, imputation: Imputation, *, outputs: Iterable[str] = (), draws: int = 0) -> Record:
        """The same with the list of what is written of an imputation, by which it is removed again."""
        return replace(
            self,
            outputs=tuple(outputs),
            draws=draws,
            gene_columns=tuple(imputation.gene_columns),
            cell_columns=tuple(imputation.cell_columns),
            latent=imputation.latent is not None,
        )

    def brief(self) -> dict[str, Any]:
        """The record without long tables, for a summary in JSON."""
        parts = {"race": self.race, "verdict": self.verdict}
        short = replace(self, race=None, verdict=None).to_uns()
        return short | {name: part.brief() for name, part in parts.items() if part is not None}


def _from_first(values: Mapping[str, Any]) -> dict[str, Any]:
    """A record of version 0.1.0 in the fields of today."""
    record = dict(values)
    source = record.get("input")
    if isinstance(source, Mapping) and str(source.get("where", "")).startswith("layers["):
        try:  # the layer's name stood in the text alone
            layer = str(ast.literal_eval(str(source["where"])[len("layers[") : -1]))
        except (ValueError, SyntaxError):
            layer = None
        record["input"] = {**source, "layer": layer}
    outputs = _texts(record.get("outputs", ()))  # draws stood among them
    record["outputs"] = [name for name in outputs if not re.fullmatch(r"draw\d+", name)]
    record["draws"] = len(outputs) - len(record["outputs"])
    record["stored_in"] = ("layers",) if record.get("genes") is None else ("layers", "obsm")
    record["latent"] = str(record.get("method")) not in WITHOUT_LATENT
    return record


# -- how fields are stored ---------------------------------------------------------------------------------------------
def _same(value: Any) -> Any:
    return value


def _plain(value: Any) -> Any:
    """NumPy values, also in nested mappings, as plain Python values; a text of anything else."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, str | int | float | list | tuple | None) else str(value)


def _text(value: Any) -> str:
    if isinstance(value, Mapping) or np.ndim(value):
        raise TypeError(f"{type(value).__name__} instead of a text")
    return str(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(text) for text in np.atleast_1d(np.asarray(value)).ravel())


def _flag(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{value!r} instead of true or false")
    return bool(value)


def _member(names: Iterable[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if str(value) not in names:
            raise ValueError(f"{value!r} is not one of {', '.join(names)}")
        return str(value)

    return read


def _table(value: Any) -> pd.DataFrame:
    if not hasattr(value, "columns"):
        raise TypeError(f"{type(value).__name__} instead of a table")
    return value


def _mapping(read: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {str(name): read(inner) for name, inner in dict(value).items()}


def _params(value: Any) -> dict[str, Any]:
    values = json.loads(value) if isinstance(value, str) else _plain(value)
    if not isinstance(values, dict):
        raise TypeError(f"{type(value).__name__} instead of parameters by name")
    return values


def _status(value: Any) -> Status:
    known = ("status", "converged", "message")
    details = {str(name): _plain(inner) for name, inner in dict(value).items() if name not in known}
    return Status(_text(value.get("status", "exact")), _text(value.get("message", "")), details)


_READERS: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "str | None": _text,
    "int": int,
    "int | None": int,
    "float": float,
    "bool": _flag,
    "Kind": _member(KINDS),
    "Scale": _member(SCALES),
    "tuple[str, ...]": _texts,
    "tuple[str, ...] | None": _texts,
    "pd.DataFrame": _table,
    "dict[str, str]": _mapping(_text),
    "dict[str, float]": _mapping(float),
    "dict[str, np.ndarray]": _mapping(np.atleast_1d),
    "dict[str, pd.DataFrame]": _mapping(_table),
    "dict[str, Any]": _params,
    "dict[str, Any] | None": dict,
    "Status": _status,
    "Input": Input.from_uns,
    "Race | None": Race.from_uns,
    "Verdict | None": Verdict.from_uns,
}
_WRITERS: dict[type, Callable[[Any], Any]] = {
    tuple: lambda value: np.array(value, dtype=str),
    Input: Input.to_uns,
    Race: Race.to_uns,
    Verdict: Verdict.to_uns,
    Status: lambda value: {
        "status": value.name,
        "converged": value.converged,
        "message": value.message,
        **value.details,
    },
}


# -- where a result stands ---------------------------------------------------------------------------------------------
def layer_names(key: str, outputs: Iterable[str] = ()) -> dict[Any, str]:
    """Output -> name of its matrix: ``key`` itself for the value, ``<key>_<output>`` for the others."""
    return {"value": key, **{name: f"{key}_{name}" for name in map(str, outputs)}}


def places(key: str, record: Record) -> list[tuple[str, str]]:
    """Every place where a result stands, the record itself left aside.

    Parameters
    ----------
    key : str
        Name of the result.
    record : Record

    Returns
    -------
    list of (str, str)
        Part of the AnnData and name in it.

    Examples
    --------
    >>> record = Record("zipo", Input("counts", "counts"), "counts", cell_columns=("library_size",), latent=True)
    >>> places("zipo", record)
    [('layers', 'zipo'), ('obsm', 'X_zipo'), ('obs', 'zipo_library_size')]
    """
    names = layer_names(key, [*record.outputs, *draw_names(record.draws).values()]).values()
    return [
        *((element, name) for element in record.stored_in for name in names),
        *([("obsm", f"X_{key}")] if record.latent else []),
        *(("var", f"{key}_{name}") for name in record.gene_columns),
        *(("obs", f"{key}_{name}") for name in record.cell_columns),
    ]


def places_to_remove(key: str, records: Any) -> list[tuple[str, str]]:
    """What goes when the result ``key`` is removed or replaced: its `places`, but for those of other results.

    Parameters
    ----------
    key : str
        Name of the result; the list is empty where there is no such result.
    records : Mapping
        ``uns["imputome"]``.

    Raises
    ------
    InputError
        The record cannot be read, so it is not known what belongs to the result.
    """
    if key not in records:
        return []
    others = {place for other in records if other != key for place in _places_if_readable(other, records[other])}
    return [place for place in places(key, _read(records, key)) if place not in others or place[1] == key]


def _read(records: Mapping[str, Any], key: str) -> Record:
    return Record.from_uns(records[key], where=f"uns['imputome'][{key!r}]")


def _places_if_readable(key: str, values: Any) -> list[tuple[str, str]]:
    try:
        return places(key, Record.from_uns(values))
    except InputError:  # of another version, or not of imputome
        return [("layers", key), ("obsm", key)]


# -- finding a record --------------------------------------------------------------------------------------------------
def find_record(adata: AnnData, key: str | None = None) -> tuple[str, Record]:
    """Key and record of a result.

    Parameters
    ----------
    adata : AnnData
    key : str, optional
        Name of the result; by default the only one.

    Raises
    ------
    InputError
        There is no result, none of that name, or several to choose from; or the record cannot be read.
    """
    records = adata.uns.get("imputome", {})
    if not isinstance(records, Mapping) or not records:
        raise InputError("uns['imputome'] holds no result: impute first", code="no-result")
    if key is None:
        if len(records) > 1:
            raise InputError(
                f"there are {len(records)} results: pass {{key}} with one of {', '.join(records)}",
                code="several-results",
                key=...,
            )
        key = next(iter(records))
    if key not in records:
        raise InputError(
            f"there is no result {key!r}{meant(key, records)}; results here: {', '.join(records)}",
            code="no-such-result",
            parameter="key",
        )
    return key, _read(records, key)


def find_verdict(key: str, record: Record) -> Verdict:
    """The verdict on the result ``key``.

    Raises
    ------
    InputError
        The result was not checked.
    """
    if record.verdict is None:
        raise InputError(
            f"the result {key!r} was not checked: impute again with {{check}}", code="not-checked", check=True
        )
    return record.verdict


def imputed_layer(adata: AnnData, layer: str) -> tuple[Record, str] | None:
    """The record of the result that wrote a layer, and which of its outputs the layer is; None if no result did.

    The output ``"value"`` is the imputed value itself.
    """
    records = adata.uns.get("imputome", {})
    if not isinstance(records, Mapping):
        return None
    # a result of this name before another result with an output of this name
    for key in sorted((key for key in records if layer.startswith(key)), key=len, reverse=True):
        record = _read(records, key)
        for output, name in layer_names(key, [*record.outputs, *draw_names(record.draws).values()]).items():
            if name == layer:
                return record, output
    return None


def meant(name: str, names: Iterable[Any]) -> str:
    """``, did you mean ...?`` where one of ``names`` is close to ``name``, else nothing."""
    names = [str(known) for known in names]
    close = get_close_matches(str(name), names, n=1)
    if not close:  # in another case, such as the genes of mouse and man
        lower = {known.lower(): known for known in names}
        close = [lower[str(name).lower()]] if str(name).lower() in lower else []
    return f", did you mean {close[0]!r}?" if close else ""
