"""Options that several commands share, each defined once, and the flags for the library's parameters."""

from __future__ import annotations

import ast
import inspect
import math
import shlex
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from imputome.core.small_files import read_small_text
from imputome.errors import InputError

if TYPE_CHECKING:
    from imputome.io.table_layout import TableOptions

MAX_DRAWS = 999
NOT_IN_CONFIG = ("settings", "config", "debug", "help")  # parameters of the method are in the table params

# -- shared options ----------------------------------------------------------------------------------------------------
Source = Annotated[
    Path,
    typer.Argument(metavar="IN", readable=False, help=".h5ad, .h5mu, .zarr, 10x .h5 or folder, .loom, or a table."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Output: .h5ad, .h5mu, .zarr, .parquet, .csv.gz, ...")]
Modality = Annotated[str | None, typer.Option(help="Modality to use, for .h5mu files (default: the only one).")]
Layer = Annotated[str | None, typer.Option(help="Layer to use instead of X; raw is adata.raw.")]
Kind = Annotated[
    str | None, typer.Option(help="counts (a zero may be missing) or real (only NaN is missing); default: by data.")
]
RoundCounts = Annotated[
    str | None, typer.Option(help="Round expected counts (RSEM, salmon): nearest, or stochastic (keeps sums).")
]
AcceptOrientation = Annotated[
    bool, typer.Option("--accept-orientation", help="Go on although names say that genes are in the rows.")
]
Transpose = Annotated[bool, typer.Option("--transpose", help="For inputs that are no tables: genes are in the rows.")]
KeyAdded = Annotated[str | None, typer.Option(help="Name of the new layer (default: the method).")]
FeatureType = Annotated[
    str | None,
    typer.Option(help="Feature type to use where there are several, or all (default: genes)."),
]
Scale = Annotated[
    str | None,
    typer.Option(help="Scale to write, or that IN is on: counts, normalized, log1p, log2p1, log10p1, sqrt, input."),
]
Genes = Annotated[str | None, typer.Option(help="Write only these genes: A,B,C or a file with one per line.")]
GeneColumn = Annotated[str | None, typer.Option(help="Column of var with the gene names (default: var_names).")]
GenesIn = Annotated[str | None, typer.Option(help="For tables: where the genes are, rows or columns.")]
Decimal = Annotated[str, typer.Option(metavar="[.|,]", help="For tables: the decimal sign.")]
Missing = Annotated[
    list[str] | None,
    typer.Option(help="What stands for a missing value, beside NA and empty cells: -1 or several, -1,-9."),
]
Annotation = Annotated[
    str | None,
    typer.Option(metavar="A,B|none", help="For tables: columns to pass through, not values (default: recognised)."),
]
KeepSummaryRows = Annotated[
    bool, typer.Option("--keep-summary-rows", help="Fit __no_feature, N_unmapped and the like as if they were genes.")
]
MatchGenes = Annotated[
    str | None,
    typer.Option(metavar="version|case|r-names", help="What names of genes may differ by from those of the model."),
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Parameter of the method: key=value.")]
Posterior = Annotated[
    bool | None,
    typer.Option(
        "--posterior/--no-posterior",
        help="Shrink each cell's own counts towards the value of the method, by as much as held-out molecules say; "
        "adds the outputs variance, lower and upper. For counts; see imputome methods NAME+posterior.",
    ),
]
TrainingCells = Annotated[
    int | None,
    typer.Option(min=2, help="Cells to learn from, chosen at random, if there are more (counts; default: 100000)."),
]
KeepObserved = Annotated[
    bool | None, typer.Option("--keep-observed/--replace-observed", help="Keep observed values as they are.")
]
Outputs = Annotated[
    str | None, typer.Option(help="Layers to write beside the values, if the method has them: variance,lower,upper.")
]
Uncertainty = Annotated[
    Path | None, typer.Option(help="Table for the standard deviation of each imputed value, 0 for observed values.")
]
Draws = Annotated[
    int,
    typer.Option(min=0, max=MAX_DRAWS, help="Number of multiple imputations: tables beside a table, else layers."),
]
Transform = Annotated[str, typer.Option(help="Transform of real values: auto, none, asinh, clip, logit or neglog.")]
Covariates = Annotated[
    str | None,
    typer.Option(help="Columns of obs, A,B,C, for methods that use them; A:number or A:category for whole numbers."),
]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes of this machine that impute and write a .zarr (default: this one alone).")
]
Scheduler = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Use the workers of this dask scheduler, tcp://HOST:8786.")
]
MaxMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory to keep to, as 4GB; a fit on counts then learns from fewer cells."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what exists already.")]
Compression = Annotated[str | None, typer.Option(help="For .h5ad: gzip (default), lzf, zstd or none.")]
SafeCsv = Annotated[
    bool,
    typer.Option("--safe-csv", help="For text tables: put ' before names that begin a formula (=, +, -, @)."),
]
Reproducible = Annotated[
    bool, typer.Option("--reproducible", help="Leave times, memory and the command line out of the record.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a machine-readable summary.")]

# -- the library's parameters on the command line ----------------------------------------------------------------------
_SAME_NAME = (
    *("accept_control", "budget", "check", "checkpoint", "config", "covariates", "downstream", "draws", "fraction"),
    "feature_type",
    *("before", "compression", "record", "reproducible", "safe_csv", "strict", "threads"),
    *("max_memory", "training_cells"),
    *("gene_column", "genes", "genes_in", "keep_observed", "key", "key_added", "label", "layer", "method", "methods"),
    *("min_coverage", "objective", "output", "outputs", "position", "posterior", "protocol", "sample_id", "samples"),
    *("accept_orientation", "kind", "round_counts", "transpose"),
    *("annotation", "decimal", "keep_summary_rows", "match_genes", "missing", "modality"),
    *("scale", "scheduler", "scheme", "seed", "storage", "transform", "trials", "uncertainty", "workers"),
    *("min_genes", "min_cells"),
    *("external", "masked", "name", "partial"),
)
FLAGS = {name: f"--{name.replace('_', '-')}" for name in _SAME_NAME} | {
    "labels": "--label",
    "n_trials": "--trials",
    "overwrite": "--force",
    "params": "--set",
    "random_state": "--seed",
    "shift": "--shift-correction",
}
OPPOSITES = {"--check": "--no-check", "--keep-observed": "--replace-observed", "--posterior": "--no-posterior"}


def flag(name: str, value: Any) -> str:
    """A parameter of the library as it is passed on the command line; one of a method alone goes through ``--set``."""
    text = ",".join(map(str, value)) if isinstance(value, list) else "..." if value is ... else str(value)
    if name not in FLAGS:
        return f"--set {shlex.quote(f'{name}={text}')}"
    if value is ... or value is True:
        return FLAGS[name]
    if value is False:
        return OPPOSITES.get(FLAGS[name], FLAGS[name])
    return f"{FLAGS[name]} {shlex.quote(text)}"


# -- commands from dataclasses -----------------------------------------------------------------------------------------
def takes_options(function: Callable[[Any], Any]) -> Callable[..., Any]:
    """A command whose options are the fields of a dataclass, from a function that takes one object of it.

    The fields of the class itself come before those that it inherits.
    """
    cls = next(iter(get_type_hints(function).values()))
    hints = get_type_hints(cls, include_extras=True)
    defaults = {entry.name: entry.default for entry in fields(cls)}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if defaults[name] is MISSING else defaults[name],
            annotation=hints[name],
        )
        for name in dict.fromkeys([*cls.__annotations__, *defaults])
    ]

    def command(**given: Any) -> Any:
        return function(cls(**given))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = hints
    command.__doc__ = function.__doc__
    return command


# -- options from a file -----------------------------------------------------------------------------------------------
def take_config(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of ``--config``: what the file says holds where the command line says nothing."""
    if path is not None:
        from imputome.io.config import read_options

        given = {name: value for name, value in read_options(path).items() if name != "params" and value is not None}
        context.default_map = {_parameter(context, name, path): _as_typed(value) for name, value in given.items()}
    return path


def _parameter(context: typer.Context, name: str, path: Path) -> str:
    """The parameter of the command for an option, which may be named as in the library or as the flag."""
    wanted = FLAGS.get(name, f"--{name.replace('_', '-')}")
    for entry in context.command.params:
        if wanted in entry.opts and entry.name not in NOT_IN_CONFIG:
            return str(entry.name)
    known = ", ".join(
        entry.opts[0].removeprefix("--")
        for entry in context.command.params
        if entry.opts[0].startswith("--") and entry.name not in NOT_IN_CONFIG
    )
    text = f"the config file {path} has {name!r}, which is not one of its options: {known}, params"
    raise InputError(text, code="config-field", parameter="config")


def _as_typed(value: Any) -> Any:
    """A value as it would be typed; the parser checks it."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


# -- values of options -------------------------------------------------------------------------------------------------
def split_names(text: str | None) -> list[str]:
    """``A,B,C`` as a list."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def table_options(decimal: str, missing: list[str] | None, annotation: str | None) -> TableOptions:
    """How a table is to be read."""
    from imputome.io.table_layout import TableOptions

    # a comma in a number with a decimal comma separates no values
    texts = [text for given in missing or [] for text in (split_names(given) if decimal != "," else [given])]
    return TableOptions(decimal, tuple(texts), None if annotation is None else tuple(split_names(annotation)))


def gene_list(text: str) -> list[str]:
    """Names from ``A,B,C`` or from a file with one name per line."""
    if text and "," not in text and len(text) < 255 and Path(text).exists():
        lines = read_small_text(Path(text), "genes file", code="genes-file", parameter="genes", pipes=True).splitlines()
        return [name for line in lines if (name := line.strip().strip("\"'"))]
    names = split_names(text)
    if len(names) == 1 and ("/" in text or Path(text).suffix in (".txt", ".csv", ".tsv", ".list")):
        raise InputError(f"there is no genes file {text}", code="genes-file-missing", parameter="genes")
    return names


def parse_settings(settings: list[str] | None) -> dict[str, Any]:
    """``key=value`` pairs; values are read as Python literals, else as text."""
    words = {"true": True, "false": False, "none": None}
    parsed: dict[str, Any] = {}
    for setting in settings or []:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not name:
            raise typer.BadParameter(f"{setting!r} is not of the form key=value", param_hint="--set")
        try:
            parsed[name] = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parsed[name] = text
    return parsed


def size_of(text: str) -> float:
    """``4GB`` as a number of bytes."""
    units = {"GB": 1e9, "MB": 1e6, "GIB": 2.0**30, "MIB": 2.0**20, "G": 1e9, "M": 1e6}
    number = text.strip().upper()
    unit = next((unit for unit in units if number.endswith(unit)), "")
    try:
        size = float(number.removesuffix(unit)) * units[unit]
    except (ValueError, KeyError):
        raise typer.BadParameter(f"{text!r} is no size as 4GB or 500MB", param_hint="--max-memory") from None
    if not 0 < size < math.inf:
        raise typer.BadParameter(f"{text!r} is no size as 4GB or 500MB", param_hint="--max-memory")
    return size
