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
    params = { max_epochs = 2 }         # of every configuration
    methods = { zipo = { max_epochs = 2 } }  # of the configurations of one method

For real values, where the splits of a trial share their rows and their fits (`imputome.studies.trial`)::

    spread = "interval"                 # in tables: 95 % intervals of means; else "sd", over trials
    gc = "gc.csv"                       # GC content by gene, for high_gc; a path from the folder of the file

    [[datasets]]
    name = "tcga_gbmlgg_zscore_1544g"
    transform = "asinh"                 # of the values, for good: see `imputome.core.links`
    labels = "ceccarelli_study"         # column of obs that stratifies the rows
    clinical = { grade = "ceccarelli_grade", time = "survival_months", event = "dead" }  # columns of obs
    max_features = 40                   # drawn at random, by the seed

    [[splits]]                          # all with scale = "zscore"
    name = "5 % lowest"                 # in tables; else the scheme's
    scheme = "low_values"
    fraction = 0.5
    scale = "zscore"
    options = { quantile = 0.05 }       # of the scheme
    datasets = ["tcga_gbmlgg_zscore_1544g"]  # only on these
    coverage = "wgbs_chr21_M_Cov"       # for low_coverage: the dataset whose coverages are drawn from

    [[comparisons]]                     # Wilcoxon tests, see `imputome.studies.claims`
    [[published]]                       # a paper's table: see `imputome.studies.study.Published`

The text ``"none"`` stands for None in a parameter. (A study of `imputome.studies.tuning` is another thing: Optuna's.)
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from imputome.errors import InputError
from imputome.studies.check import check_study
from imputome.studies.runner import MethodSpec
from imputome.studies.study import Claim, Comparison, Configuration, Hiding, Published, Study, Subset

FOLDER = Path(__file__).parent  # of the studies that come with the package
BASE = "base"
PARTS = {
    "datasets": Subset,
    "splits": Hiding,
    "claims": Claim,
    "comparisons": Comparison,
    "published": Published,
}  # tables of a file, each there any number of times
WORDS = {str: "a text", int: "an integer", float: "a number", dict: "a table", tuple: "a list"}


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
    if content.get("gc"):
        content["gc"] = str(path.parent / str(content["gc"]))
    try:
        return _study(path.stem, content, quick)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error


# -- from the file's tables --------------------------------------------------------------------------------------------
def _study(name: str, content: dict[str, Any], quick: bool) -> Study:
    change = content.pop("quick", {})
    _known_keys("[quick]", change, ("trials", "datasets", "params", "methods"))
    if quick:
        if not change:
            raise InputError("there is no table [quick] that says what its small variant is")
        content = {**content, **{key: change[key] for key in ("trials", "datasets") if key in change}}
    common, base = content.pop("common", {}), content.pop("base", None)
    factors, extra = content.pop("factors", []), content.pop("configurations", [])
    last = change if quick else {}
    if not isinstance(base, dict):
        raise InputError("the table [base] is missing: the method that the others are variations of")
    content["configurations"] = _configurations(base, common, factors, extra, last)
    for key, kind in PARTS.items():
        content[key] = [_made(f"[[{key}]]", kind, table) for table in content.get(key, [])]
    study: Study = _made("the study", Study, {"name": name, **content})
    check_study(study)
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
    everywhere, by_method = last.get("params", {}), last.get("methods", {})
    settings = {"[common]": common, "[base] params": own, "[quick] params": everywhere, "[quick] methods": by_method}
    for where, params in {**settings, **{f"[quick] methods: {name}": by_method[name] for name in by_method}}.items():
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
        name = table.get("method", method)
        params = {**common, **(own if same else {}), **table.get("params", {})}
        params |= {**everywhere, **by_method.get(name, {})}
        spec = MethodSpec(
            name,
            {key: _parameter(value) for key, value in params.items()},
            table.get("after", after if same else ""),
        )
        found.append(Configuration(table["name"], spec))
    return found


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
