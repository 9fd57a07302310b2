"""A study as a TOML file: data, ways to hide values, configurations of methods, and what is claimed of them.

::

    title = "What it asks, and at what size"
    paper = "doi:..."
    trials = 5                          # seeds; seed = 0
    shown = ["poisson_loss", "nrmse"]   # metrics of the printed tables; all are recorded
    controls = ["poisson_nmf"]          # beside those that every study has

    [[datasets]]                        # name as in `imputome datasets`
    name = "pbmc3k_raw"
    max_cells = 1000                    # drawn at random, by the seed
    min_cells = 10                      # also min_genes
    n_top_genes = 1000                  # the most variable ones (seurat_v3)

    [[splits]]                          # scheme, fraction, scale: see `imputome.studies.runner.run_study`
    scheme = "thin"
    fraction = 0.1
    params = {}                         # of the base's method, for this split

    [common]                            # parameters of every configuration
    max_epochs = 60

    [base]
    method = "zipo"
    after = "prune"                     # see `imputome.studies.runner.MethodSpec`
    params = { alpha_z = 0.1 }

    [[factors]]                         # every combination of these values, the rest as in the base
    alpha_z = [0.0, 0.1, 1.0]           # makes "alpha_z=0", "alpha_z=0.1" (which is the base), ...

    [[configurations]]                  # with a name of its own; of another method if one is given
    name = "no batch norm"
    params = { batch_norm = false }

    [[claims]]                          # see `imputome.studies.claims`

    [quick]                             # what is different with `--quick`
    trials = 1
    datasets = [{ name = "pbmc68k", max_cells = 150 }]
    params = { max_epochs = 2 }

The text ``"none"`` stands for None in a parameter. (A study of `imputome.studies.tuning` is another thing: Optuna's.)
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from imputome.errors import InputError
from imputome.evaluation.splits import SCHEMES
from imputome.methods import get, names
from imputome.methods.parameters import check_parameters
from imputome.studies.bars import BARS
from imputome.studies.runner import CONTROLS, MethodSpec

FOLDER = Path(__file__).parent  # of the studies that come with the package
BASE = "base"
ClaimKind = Literal["better", "at_least", "monotone", "close"]
WORDS = {str: "a text", int: "an integer", float: "a number", dict: "a table", tuple: "a list"}


@dataclass(frozen=True)
class Subset:
    """A dataset and the part of it that a study takes; see the module."""

    name: str
    max_cells: int | None = None
    min_genes: int = 0
    min_cells: int = 0
    n_top_genes: int | None = None

    @property
    def label(self) -> str:
        """Name in the results, which says what was left of the dataset."""
        cells = None if self.max_cells is None else f"at most {self.max_cells} cells"
        genes = None if self.n_top_genes is None else f"{self.n_top_genes} variable genes"
        parts = [part for part in (cells, genes) if part]
        return f"{self.name} ({', '.join(parts)})" if parts else self.name


@dataclass(frozen=True)
class Hiding:
    """One way of hiding values; see the module."""

    scheme: str
    fraction: float | None = None
    scale: str = "counts"
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Configuration:
    """A method with parameters, under the name that tables and claims know it by."""

    name: str
    spec: MethodSpec


@dataclass(frozen=True)
class Claim:
    """A statement that results can bear out or not; see `imputome.studies.claims`.

    Attributes
    ----------
    text : the statement.
    kind : ``"better"``: ``configurations`` has two, and the first is better than the second in ``metric``;
        ``"at_least"``: ``metric`` of the one is ``value`` or more; ``"monotone"``: ``metric`` never rises along them;
        ``"close"``: ``metric`` of the one lies within the share ``value`` of its ``reference``, another metric.
    metric : what is looked at; only splits that have it count.
    configurations : their names.
    control : for ``"better"``: whether the first also beats this control is told beside.
    """

    text: str
    kind: ClaimKind
    metric: str
    configurations: tuple[str, ...]
    value: float = 0.0
    reference: str = ""
    control: str = ""


@dataclass(frozen=True)
class Study:
    """A study as read from a file; see the module."""

    name: str
    title: str
    datasets: tuple[Subset, ...]
    splits: tuple[Hiding, ...]
    configurations: tuple[Configuration, ...]
    claims: tuple[Claim, ...] = ()
    controls: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    paper: str = ""
    trials: int = 1
    seed: int = 0

    def specs(self, split: Hiding) -> dict[str, MethodSpec]:
        """Name -> method and parameters under ``split``; equal ones have several names."""
        method = self.configurations[0].spec.name
        return {
            name: replace(spec, params={**spec.params, **split.params}) if spec.name == method else spec
            for name, spec in ((configuration.name, configuration.spec) for configuration in self.configurations)
        }

    def names_of_rows(self, split: Hiding) -> dict[tuple[str, str], list[str]]:
        """(method, parameters) as they stand in results -> names here; a control is called by its method's name."""
        found: dict[tuple[str, str], list[str]] = {}
        controls = {name: MethodSpec(name) for name in (*itertools.chain(*CONTROLS.values()), *self.controls)}
        for name, spec in {**controls, **self.specs(split)}.items():
            found.setdefault((spec.label, spec.parameters), []).append(name)
        return found

    def only(self, wanted: Iterable[str]) -> Study:
        """The study on some of its datasets."""
        wanted = list(wanted)
        known = [subset.name for subset in self.datasets]
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            missing = unknown[0] if unknown else ""
            raise InputError(f"the study {self.name} has no dataset {missing!r}: choose of {', '.join(known)}")
        return replace(self, datasets=tuple(subset for subset in self.datasets if subset.name in wanted))


def known_studies() -> dict[str, str]:
    """Names and titles of the studies that come with the package."""
    paths = sorted(FOLDER.glob("*.toml"))
    return {path.stem: tomllib.loads(path.read_text(encoding="utf-8"))["title"] for path in paths}


def find_study(name: str, *, quick: bool = False) -> Study:
    """A study of the package by its name, or a file of one's own by its path.

    Parameters
    ----------
    quick : with the changes of its table ``[quick]``: small enough to see that everything runs.

    Raises
    ------
    InputError
        There is no such study, or the file holds what no study can.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if name not in known_studies():
            raise InputError(
                f"there is no study {name!r}: choose of {', '.join(known_studies())}, or give a .toml file"
            )
        path = FOLDER / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"there is no study file {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the study file {path} cannot be read as TOML: {error}") from error
    try:
        return _study(path.stem, content, quick)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error


# -- from the file's tables --------------------------------------------------------------------------------------------
def _study(name: str, content: dict[str, Any], quick: bool) -> Study:
    change = content.pop("quick", {})
    _known_keys("[quick]", change, ("trials", "datasets", "params"))
    if quick:
        if not change:
            raise InputError("there is no table [quick] that says what its small variant is")
        content = {**content, **{key: change[key] for key in ("trials", "datasets") if key in change}}
    common, base = content.pop("common", {}), content.pop("base", None)
    factors, extra = content.pop("factors", []), content.pop("configurations", [])
    last = change.get("params", {}) if quick else {}
    if not isinstance(base, dict):
        raise InputError("the table [base] is missing: the method that the others are variations of")
    content["configurations"] = _configurations(base, common, factors, extra, last)
    for key, kind in (("datasets", Subset), ("splits", Hiding), ("claims", Claim)):
        content[key] = [_made(f"[[{key}]]", kind, table) for table in content.get(key, [])]
    study: Study = _made("the study", Study, {"name": name, **content})
    _check(study)
    return study


def _configurations(
    base: dict[str, Any],
    common: dict[str, Any],
    factors: list[dict[str, Any]],
    extra: list[dict[str, Any]],
    last: dict[str, Any],
) -> list[Configuration]:
    _known_keys("[base]", base, ("method", "after", "params"))
    if "method" not in base:
        raise InputError('[base]: the method is missing, as in method = "zipo"')
    method, own, after = str(base["method"]), base.get("params", {}), base.get("after", "")
    for where, params in (("[common]", common), ("[base] params", own), ("[quick] params", last)):
        _known_keys(where, params, params)
    tables: list[dict[str, Any]] = [{"name": BASE}]
    for factor in factors:
        for parameter, values in factor.items():
            if parameter not in own:
                raise InputError(
                    f"[[factors]]: the value of {parameter!r} in the base is missing: add it to its params"
                )
            if not isinstance(values, list) or not values:
                raise InputError(f"[[factors]]: {parameter} must be a list of values")
        for values in itertools.product(*factor.values()):
            params = dict(zip(factor, values, strict=True))
            tables.append(
                {"name": ", ".join(f"{key}={_plain(value)}" for key, value in params.items()), "params": params}
            )
    found = []
    for table in [*tables, *extra]:
        _known_keys("[[configurations]]", table, ("name", "method", "after", "params"))
        if "name" not in table:
            raise InputError("[[configurations]]: one has no name")
        _known_keys(f"params of {table['name']!r}", table.get("params", {}), table.get("params", {}))
        same = table.get("method", method) == method
        params = {**common, **(own if same else {}), **table.get("params", {}), **last}
        spec = MethodSpec(
            table.get("method", method),
            {key: _parameter(value) for key, value in params.items()},
            table.get("after", after if same else ""),
        )
        found.append(Configuration(table["name"], spec))
    return found


def _check(study: Study) -> None:
    for what in ("datasets", "splits"):
        if not getattr(study, what):
            raise InputError(f"[[{what}]]: at least one is needed")
    if study.trials < 1 or study.seed < 0:
        raise InputError(f"trials={study.trials} must be at least 1, and seed={study.seed} not negative")
    labels = [subset.label for subset in study.datasets]
    known = [configuration.name for configuration in study.configurations]
    for what, given in (("datasets", labels), ("configurations", known)):
        twice = [name for name in given if given.count(name) > 1]
        if twice:
            raise InputError(f"two {what} are called {twice[0]!r}: give each a name of its own")
    for subset in study.datasets:
        for limit in (subset.max_cells, subset.n_top_genes):
            if limit is not None and limit < 2:
                raise InputError(f"[[datasets]]: {subset.name}: {limit} are too few cells or genes to impute from")
    for split in study.splits:
        if split.scheme not in SCHEMES:
            raise InputError(f"[[splits]]: there is no scheme {split.scheme!r}: choose one of {', '.join(SCHEMES)}")
        for name, spec in study.specs(split).items():
            _check_method(name, spec)
    for name in study.controls:
        if name not in (*BARS, *names()):
            raise InputError(f"controls: there is no method {name!r}")
    for claim in study.claims:
        _check_claim(claim, known)


def _check_method(name: str, spec: MethodSpec) -> None:
    cls = get(spec.name)
    try:
        check_parameters(cls, spec.params)
    except InputError as error:
        raise InputError(f"configuration {name!r}: {error}") from error
    if spec.after and not callable(getattr(cls, spec.after, None)):
        raise InputError(f"configuration {name!r}: {spec.name} cannot {spec.after!r} after it is fitted")


def _check_claim(claim: Claim, known: list[str]) -> None:
    if claim.kind not in get_args(ClaimKind):
        raise InputError(f"[[claims]]: kind={claim.kind!r} is none of {', '.join(get_args(ClaimKind))}")
    for name in claim.configurations:
        if name not in known:
            raise InputError(f"[[claims]]: there is no configuration {name!r}; there are: {', '.join(known)}")
    size = len(claim.configurations)
    fits = {"better": size == 2, "monotone": size >= 2}.get(claim.kind, size == 1)
    if not fits:
        raise InputError(f"[[claims]]: {claim.kind!r} does not go with {size} configurations: {claim.text!r}")
    if claim.kind == "close" and not claim.reference:
        raise InputError(f"[[claims]]: 'close' needs a reference, the metric to be close to: {claim.text!r}")


def _made(where: str, kind: type, table: dict[str, Any]) -> Any:
    """An instance of a dataclass from a table of the same keys, types checked, lists made tuples."""
    _known_keys(where, table, [entry.name for entry in fields(kind)])
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for entry in fields(kind):
        if entry.name not in table:
            if entry.default is MISSING and entry.default_factory is MISSING:
                raise InputError(f"{where}: {entry.name} is missing")
            continue
        value = table[entry.name]
        value = tuple(value) if isinstance(value, list) else value
        types = _types(hints[entry.name])
        if isinstance(value, bool) or not isinstance(value, types):
            raise InputError(f"{where}: {entry.name}={value!r} is not {WORDS[types[0]]}")
        values[entry.name] = value
    return kind(**values)


def _types(hint: Any) -> tuple[type, ...]:
    """What `isinstance` may check for an annotation; a whole number will do for a number."""
    origin = get_origin(hint)
    if origin is UnionType:
        return tuple(found for part in get_args(hint) for found in _types(part))
    if origin is Literal:
        return (str,)
    return (float, int) if hint is float else (origin or hint,)


def _known_keys(where: str, table: Any, allowed: Iterable[str]) -> None:
    if not isinstance(table, dict):
        raise InputError(f"{where} must be a table")
    unknown = [key for key in table if key not in allowed]
    if unknown:
        raise InputError(f"{where} has the key {unknown[0]!r}; it takes {', '.join(allowed)}")


def _parameter(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() == "none" else value


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
