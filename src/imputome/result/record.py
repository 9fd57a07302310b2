"""The record of a result in ``uns["imputome"][key]``: only this module writes, reads and searches it.

A record lists every place in the AnnData where the result is (`places`), so that only these are removed with it.
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
BRIEF = (
    "verdict",
    "reasons",
    "failed",
    "rule",
    "held_out",
    "figures",
    "cells",
    "fits",
    "seconds",
)  # of a verdict, in a summary


def _no_table() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame()


class _Stored:
    """A frozen dataclass that is stored as a mapping; `_READERS` has the reader for each type of field.

    Fields that are None and empty tables are left out, because not every AnnData format can hold them.
    """

    def to_uns(self) -> dict[str, Any]:
        """Plain values, string arrays, tables and nested dictionaries of these, which .h5ad and .zarr can hold."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]
        return {
            name: _stored(value)
            for name, value in values.items()
            if value is not None and not (hasattr(value, "columns") and value.empty)
        }

    @classmethod
    def from_uns(cls, values: Any, *, where: str = "uns['imputome']") -> Self:
        """Read what `to_uns` wrote, from memory or from a file; errors say that it is stored at ``where``."""
        if not isinstance(values, Mapping):
            raise _malformed(where, f"it is a {type(values).__name__}")
        read = {}
        for each in fields(cls):  # type: ignore[arg-type]
            if values.get(each.name) is None:
                continue
            try:
                read[each.name] = _READERS[str(each.type)](values[each.name])
            except InputError:
                raise
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise _malformed(where, f"its {each.name!r} cannot be read ({error})") from error
        try:
            return cls(**read)
        except TypeError as error:  # a field without a default
            raise _malformed(where, str(error).rpartition("() ")[2]) from error


def _malformed(where: str, reason: str) -> InputError:
    text = f"{where} is not a record that imputome wrote: {reason}; delete it and impute again"
    return InputError(text, code="record-malformed")


# -- the parts of a record ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Input(_Stored):
    """The matrix that was imputed."""

    state: str  # "counts", "normalized", "log1p", or a state of real values
    kind: Kind
    layer: str | None = None  # None for X
    where: str = "X"  # the layer as a reader knows it: "X", "layers['counts']" or "raw.X"
    rounding: str | None = None  # how expected counts were rounded, "nearest" or "stochastic"; None: they were not
    rounding_seed: int | None = None
    library_genes: int | None = None  # number of genes of ``raw`` that library sizes are over; None: those of the input


@dataclass(frozen=True)
class Verdict(_Stored):
    """Whether to use an imputation, the reasons, and the measurements; a table is empty where it was not measured."""

    verdict: str  # "use", "use for visualisation only", "withheld" (it is not known) or "do not impute"
    reasons: tuple[str, ...] = ()  # one sentence each; those that decided come first
    figures: dict[str, float] = field(default_factory=dict)  # numbers that the rule used; NaN where not measured
    failed: tuple[str, ...] = ()  # criteria that were not met
    rule: str = ""  # version of the rule
    method: str = ""  # the method that was checked
    reference: str = ""  # the control that its genes were compared with
    kind: Kind = "counts"
    cells: int = 0  # size of the sample
    genes_used: int = 0
    fits: int = 0
    seconds: float = 0.0
    seed: int = 0
    # held-out scores: a row for each method, split and metric
    scores: pd.DataFrame = field(default_factory=_no_table)
    # histogram of the correlations between permuted genes, before and after imputing
    null: pd.DataFrame = field(default_factory=_no_table)
    # a row for each gene: what the method explains of it, and its zeros
    genes: pd.DataFrame = field(default_factory=_no_table)
    # coverage of the 90 % intervals by stratum of the prediction
    calibration: pd.DataFrame = field(default_factory=_no_table)
    # for each column of labels, how the neighbours of the cells changed
    mixing: dict[str, pd.DataFrame] = field(default_factory=dict)
    held_out: str = ""  # how values were held out: a scheme of `imputome.evaluation.splits.SCHEMES` and its options

    def brief(self) -> dict[str, Any]:
        """The verdict without its tables, for a summary in JSON."""
        return {name: value for name, value in self.to_uns().items() if name in BRIEF}


@dataclass(frozen=True)
class Race(_Stored):
    """How ``method="auto"`` chose a method.

    ``candidates`` has a row for each candidate, the best first: ``name``, ``method``, ``parameters`` (JSON),
    ``control``, ``score``, ``sd``, ``splits``, ``seconds``, ``outcome``. A score is the mean ratio of the candidate's
    error to that of the reference control on the same split, times the mean error of the reference: in this way
    candidates that ran on one split only are compared fairly. ``in_time`` is False for a candidate that was not
    compared, or not as often as others, because time was short.
    """

    candidates: pd.DataFrame
    winner: str  # the best candidate that can be fitted to all data in the time there is; a control if none is better
    control: str = ""  # the best control; empty in records of version 0.1.0
    metric: str = "score"  # the error; lower is better
    cells: int = 0  # size of the sample
    genes: int = 0
    seconds: float = 0.0  # duration of the race
    gain: float = float("nan")  # by which share the winner's error is below that of the best control; 0 for a control
    seconds_for_all: float = float("nan")  # expected duration of the winner's fit to all data
    seconds_for_controls: float = float("nan")  # expected duration of the fits of all controls together
    budget_minutes: float = float("nan")  # what the user allowed for everything
    seed: int = 0
    instead: str = ""  # why a control was written although it did not win; usually empty

    @property
    def out_of_time(self) -> tuple[str, ...]:
        """Names of the candidates for which time was too short; none in records of earlier versions."""
        if "in_time" not in self.candidates:
            return ()
        return tuple(self.candidates.loc[~self.candidates["in_time"].astype(bool), "name"])

    @property
    def why_control(self) -> str:
        """Why a control was written; empty where a method was."""
        row = self.candidates[self.candidates["name"] == self.winner]
        if self.instead or not len(row) or not bool(row["control"].iloc[0]):
            return self.instead
        return f"no method was better than the control {self.winner} on held-out values"

    def brief(self) -> dict[str, Any]:
        """The race with its table as a list of rows, for a summary in JSON."""
        rows: list[dict[str, Any]] = self.candidates.to_dict("records")
        for row in rows:
            row["parameters"] = _params(row.get("parameters") or "{}")
        return {**self.to_uns(), "candidates": rows}


# -- the record --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Record(_Stored):
    """How a result was made, and where in the AnnData it is."""

    method: str
    input: Input
    scale: Scale  # of the values
    params: dict[str, Any] = field(default_factory=dict)  # stored as JSON text, because values may be None or lists
    random_state: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    threads: int = 0  # that linear algebra and networks may use: sums in another order give other last digits
    transform: str = "identity"  # the link that real values were imputed on
    keep_observed: bool = False
    posterior: bool = False
    outputs: tuple[str, ...] = ()  # written beside the value, each to a matrix <key>_<output>
    draws: int = 0  # multiple imputations written, <key>_draw01 and so on
    # where the matrices are: ("layers",), or ("obsm",) for some genes of an AnnData with more. Records of version 0.1.0
    # with some genes do not say which: both
    stored_in: tuple[str, ...] = ("layers",)
    gene_columns: tuple[str, ...] = ()  # columns <key>_<name> of var
    cell_columns: tuple[str, ...] = ()  # columns <key>_<name> of obs
    latent: bool = False  # whether there is a latent representation, obsm["X_<key>"]
    genes: tuple[str, ...] | None = None  # the genes that were written, if not all
    feature_type: str = ""  # of the features that were imputed, if the input had several types
    left_out: dict[str, int] = field(default_factory=dict)  # features that were not imputed: why -> number
    unusable_cells: tuple[str, ...] = ()  # cells without an observed value
    unusable_genes: tuple[str, ...] = ()
    unusable_filled_with: str = ""
    seconds: float = 0.0  # duration of the fit
    peak_memory_bytes: int = 0  # of the process, during the fit
    convergence: Status = field(default_factory=Status)
    history: dict[str, np.ndarray] = field(default_factory=dict)  # a value for each iteration
    model: str | None = None  # folder of the model that was applied; None where the method was fitted to these data
    trained: dict[str, Any] | None = None  # what is known of the training of that model
    genes_missing_from_input: tuple[str, ...] = ()  # genes of that model
    command: str = ""  # the command line, if there was one
    # options of the call or of the command line that no other field holds, such as covariates
    options: dict[str, Any] = field(default_factory=dict)
    reproducible: bool = False  # whether what differs between equal runs is left out of what is stored
    race: Race | None = None
    verdict: Verdict | None = None

    def to_uns(self) -> dict[str, Any]:
        texts = {name: json.dumps(getattr(self, name), default=_plain) for name in ("params", "options")}
        stored = {"schema": SCHEMA, **super().to_uns(), **texts}
        return _without_times(stored) if self.reproducible else stored

    @classmethod
    def from_uns(cls, values: Any, *, where: str = "uns['imputome']") -> Self:
        """Read a record, also one of version 0.1.0; one that a later version wrote is refused (``record-too-new``)."""
        if isinstance(values, Mapping):
            try:
                schema = int(values.get("schema", 1))
            except (TypeError, ValueError) as error:
                raise _malformed(where, "its schema is not a number") from error
            if schema > SCHEMA:
                text = f"{where} has schema {schema} and this version reads up to {SCHEMA}: update imputome"
                raise InputError(text, code="record-too-new")
            if schema < SCHEMA:
                values = _from_first(values)
        return super().from_uns(values, where=where)

    def listing(self, imputation: Imputation, *, outputs: Iterable[str] = (), draws: int = 0) -> Record:
        """The same with the list of what is written of an imputation, so that it can be removed again."""
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
        texts = {"params": _plain(self.params), "options": _plain(self.options)}
        brief = self.to_uns() | texts | {name: part.brief() for name, part in parts.items() if part is not None}
        return _without_times(brief) if self.reproducible else brief


def _from_first(values: Mapping[str, Any]) -> dict[str, Any]:
    """A record of version 0.1.0 in today's fields."""
    record = dict(values)
    source = record.get("input")
    if isinstance(source, Mapping) and str(source.get("where", "")).startswith("layers["):
        try:  # the name of the layer was only in this text
            layer = str(ast.literal_eval(str(source["where"])[len("layers[") : -1]))
        except (ValueError, SyntaxError):
            layer = None
        record["input"] = {**source, "layer": layer}
    outputs = _texts(record.get("outputs", ()))  # these included the draws
    record["outputs"] = [name for name in outputs if not re.fullmatch(r"draw\d+", name)]
    record["draws"] = len(outputs) - len(record["outputs"])
    record["stored_in"] = ("layers",) if record.get("genes") is None else ("layers", "obsm")
    record["latent"] = str(record.get("method")) not in WITHOUT_LATENT
    return record


# -- the same again ----------------------------------------------------------------------------------------------------
def options_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options with which ``imputome impute`` does again what a record in JSON tells of, by name.

    ``method="auto"`` becomes the method that was chosen. Where the result was written is not an option.
    """
    params, verdict = dict(record.get("params") or {}), record.get("verdict") or {}
    source, options = record.get("input") or {}, dict(record.get("options") or {})
    seed = verdict.get("seed", record.get("random_state"))
    if params.get("random_state", seed) == seed:  # so that another seed can be given
        params.pop("random_state", None)
    if verdict:
        options["check"] = True
    else:
        options.pop("labels", None)
    if source.get("kind") == "real":
        options["transform"] = {"identity": "none"}.get(record["transform"], record["transform"])
    same = ("method", "scale", "keep_observed", "outputs", "draws", "genes", "threads", "reproducible")
    other = {"params": params, "random_state": seed, "layer": source.get("layer"), "key_added": record.get("key")}
    return {**{name: record.get(name) for name in same}, **other, **options}


def _without_times(values: Any) -> Any:
    """Without times, memory and the command line, which differ between runs that are equal otherwise."""

    def kept(name: Any) -> bool:
        return "seconds" not in str(name) and name not in ("peak_memory_bytes", "command")

    if isinstance(values, Mapping):
        return {name: _without_times(inner) for name, inner in values.items() if kept(name)}
    if isinstance(values, list):
        return [_without_times(inner) for inner in values]
    return values[[name for name in values.columns if kept(name)]] if hasattr(values, "columns") else values


# -- how fields are stored ---------------------------------------------------------------------------------------------
def _stored(value: Any) -> Any:
    if isinstance(value, tuple):
        return np.array(value, dtype=str)
    if isinstance(value, Status):
        return {"status": value.name, "converged": value.converged, "message": value.message, **value.details}
    return value.to_uns() if isinstance(value, _Stored) else value


def _plain(value: Any) -> Any:
    """NumPy values, also in nested mappings, as plain Python values; anything else as text."""
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
    "dict[str, int]": _mapping(int),
    "dict[str, np.ndarray]": _mapping(np.atleast_1d),
    "dict[str, pd.DataFrame]": _mapping(_table),
    "dict[str, Any]": _params,
    "dict[str, Any] | None": dict,
    "Status": _status,
    "Input": Input.from_uns,
    "Race | None": Race.from_uns,
    "Verdict | None": Verdict.from_uns,
}


# -- where a result is -------------------------------------------------------------------------------------------------
def layer_names(key: str, outputs: Iterable[str] = ()) -> dict[Any, str]:
    """Output -> name of its matrix: ``key`` itself for the value, ``<key>_<output>`` for the others."""
    return {"value": key, **{name: f"{key}_{name}" for name in map(str, outputs)}}


def _matrix_names(key: str, record: Record) -> dict[Any, str]:
    return layer_names(key, [*record.outputs, *draw_names(record.draws).values()])


def places(key: str, record: Record) -> list[tuple[str, str]]:
    """Every place of a result except the record itself: (part of the AnnData, name in it).

    Examples
    --------
    >>> record = Record("zipo", Input("counts", "counts"), "counts", cell_columns=("library_size",), latent=True)
    >>> places("zipo", record)
    [('layers', 'zipo'), ('obsm', 'X_zipo'), ('obs', 'zipo_library_size')]
    """
    return [
        *((element, name) for element in record.stored_in for name in _matrix_names(key, record).values()),
        *([("obsm", f"X_{key}")] if record.latent else []),
        *(("var", f"{key}_{name}") for name in record.gene_columns),
        *(("obs", f"{key}_{name}") for name in record.cell_columns),
    ]


def all_places(records: Any) -> set[tuple[str, str]]:
    """The places of all results; ``records`` is ``uns["imputome"]``."""
    return {place for key in records for place in _places_if_readable(key, records[key])}


def places_to_remove(key: str, records: Any) -> list[tuple[str, str]]:
    """What is removed when the result ``key`` is removed or replaced: its `places` without those of other results.

    ``records`` is ``uns["imputome"]``. Empty if there is no such result; an error if its record cannot be read, because
    it is then not known what belongs to the result.
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
    """The name and the record of a result; without ``key``, those of the only result."""
    records = adata.uns.get("imputome", {})
    if not isinstance(records, Mapping) or not records:
        raise InputError("uns['imputome'] holds no result: impute first", code="no-result")
    if key is None:
        if len(records) > 1:
            text = f"there are {len(records)} results: pass {{key}} with one of {', '.join(records)}"
            raise InputError(text, code="several-results", key=...)
        key = next(iter(records))
    if key not in records:
        text = f"there is no result {key!r}{meant(key, records)}; results here: {', '.join(records)}"
        raise InputError(text, code="no-such-result", parameter="key")
    return key, _read(records, key)


def get(adata: AnnData, key: str | None = None) -> Record:
    """The record of a result: what was done, with which parameters, and the verdict if there was a check.

    Parameters
    ----------
    adata : AnnData
        With a result of `imputome.impute`.
    key : str, optional
        Name of the result; None means the only one.

    Returns
    -------
    Record
        Its attributes are ``method``, ``params``, ``scale``, ``versions``, ``verdict`` (None without a check) and so
        on. Changes of it do not change ``adata``.

    Raises
    ------
    InputError
        There is no such result, there are several and no ``key``, or the record cannot be read.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()
    >>> imputome.impute(adata, method="gene_mean", key_added="shrunk")
    >>> record = imputome.get(adata, "shrunk")
    >>> record.method, record.scale, record.verdict
    ('gene_mean', 'counts', None)
    """
    return find_record(adata, key)[1]


def find_verdict(key: str, record: Record) -> Verdict:
    """The verdict on the result ``key``."""
    if record.verdict is None:
        text = f"the result {key!r} was not checked: impute again with {{check}}"
        raise InputError(text, code="not-checked", check=True)
    return record.verdict


def imputed_layer(adata: AnnData, layer: str) -> tuple[Record, str] | None:
    """The record of the result that wrote a layer, and which of its outputs the layer is; None if none wrote it."""
    records = adata.uns.get("imputome", {})
    if not isinstance(records, Mapping):
        return None
    # the layer may be the value of one result and have the name of another's output: then it is the value
    for key in sorted(records, key=lambda key: key != layer):
        if layer.startswith(key):
            record = _read(records, key)
            for output, name in _matrix_names(key, record).items():
                if name == layer:
                    return record, output
    return None


def meant(name: str, names: Iterable[Any]) -> str:
    """``, did you mean ...?`` if one of ``names`` is close to ``name``, else nothing."""
    names = [str(known) for known in names]
    # in another case, such as the genes of mouse and man
    close = get_close_matches(str(name), names, n=1) or [k for k in names if k.lower() == str(name).lower()][-1:]
    return f", did you mean {close[0]!r}?" if close else ""
