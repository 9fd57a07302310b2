"""What `imputome impute` and `imputome apply` share: their options, and the files that they check, read and write."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, fields, replace
from functools import cached_property
from glob import escape
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from imputome.api.progress import progress
from imputome.cli import options as opt
from imputome.cli.console import failure, print_check, print_json, print_line, warning_line, warnings_as_lines
from imputome.errors import InputError, Message
from imputome.io.modalities import is_multimodal

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from imputome.api.plan import Options, Plan
    from imputome.inspection.missingness import MissingnessReport
    from imputome.inspection.state import InputReport
    from imputome.io.integrity import Fingerprint
    from imputome.io.store import RowWriter
    from imputome.io.table_layout import TableOptions
    from imputome.result.matrices import Matrix
    from imputome.result.record import Record
    from imputome.result.run import Run

STORES = (".h5ad", ".zarr")
_STREAMS = "imputome-streams-"  # folders of the files that stand for stdin and stdout
W = TypeVar("W", bound="Writing")
# fields that the options of the library hold, that are not worth recording, or that say where results go
RECORDED = {
    *("source", "output", "layer", "key_added", "scale", "genes", "gene_column", "keep_observed", "outputs", "draws"),
    *("uncertainty", "reproducible", "force", "quiet", "as_json", "method", "settings", "posterior", "transform"),
    *("shift", "covariates", "check_result", "labels", "budget", "accept_control", "report", "record", "config"),
    *("threads", "max_memory", "dry_run", "workers", "scheduler", "training_cells", "strict", "seed", "model"),
}
_DECIMAL = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")


def check_store(output: Path, source: Path, holds: str, *, force: bool) -> None:
    """Check that ``output`` can be written and is an AnnData: a table cannot hold ``holds``."""
    from imputome.io.store import check_output

    check_output(output, source, overwrite=force)
    if output.suffix.lower() not in STORES:
        raise InputError(f"a table cannot hold {holds}: end {output} in .h5ad or .zarr", code="not-a-store")


def write_store(adata: AnnData, output: Path, *, force: bool) -> None:
    """Write a whole AnnData, complete or not at all."""
    from imputome.core.atomic import atomic_path

    with atomic_path(output, overwrite=force) as partial:
        fill_store(partial, adata)


def fill_store(partial: Path, adata: AnnData) -> None:
    """Write a whole AnnData; the caller moves the file into place."""
    from imputome.io.store import write_anndata

    with warnings.catch_warnings():  # nothing that the user has to act on
        warnings.filterwarnings("ignore", message=".*names are not unique")
        warnings.filterwarnings("ignore", message="Writing zarr v2")
        adata.strings_to_categoricals()
        write_anndata(partial, adata, filters={"compression": "gzip"} if partial.suffix.lower() == ".h5ad" else None)


@contextmanager
def with_streams(given: W) -> Iterator[W]:
    """The options with files in the place of ``-``: stdin is read before the block, and stdout written after it.

    What the block prints on stdout goes to stderr, so that stdout holds the table only.
    """
    from imputome.io.tables import table_suffix

    source, output = given.source, given.output
    if "-" not in (str(source), str(output)):
        yield given
        return
    if str(output) == "-" and given.draws:
        raise InputError("stdout holds one table: leave {draws} out, or give a path", code="draws-to-stdout", draws=...)
    with tempfile.TemporaryDirectory(prefix=_STREAMS) as folder, ExitStack() as printed:
        if str(source) == "-":
            content = sys.stdin.buffer.read()
            suffix = ".tsv" if b"\t" in content.partition(b"\n")[0] else ".csv"
            if output.suffix and (table_suffix(output) or "").removesuffix(".gz") in (".csv", ".tsv", ".txt"):
                suffix = (table_suffix(output) or "").removesuffix(".gz")  # so that the text can be kept
            source = Path(folder, f"stdin{suffix}")
            source.write_bytes(content)
        if str(output) == "-":
            suffix = (table_suffix(source) or ".csv").removesuffix(".gz").replace(".parquet", ".csv")
            output = Path(folder, f"stdout{suffix}")
            printed.enter_context(redirect_stdout(sys.stderr))
        yield replace(given, source=source, output=output)
        printed.close()
        if output.parent == Path(folder):
            failure.on_stdout = "a part of the table, on stdout"
            with output.open("rb") as table:
                shutil.copyfileobj(table, sys.stdout.buffer)
            sys.stdout.flush()
            failure.on_stdout = "the table, on stdout"


def _shown(path: Path) -> str:
    return "stdout" if path.parent.name.startswith(_STREAMS) else str(path)


@dataclass(frozen=True, kw_only=True)
class Writing:
    """The options of both commands; a `imputome.api.plan.Destination`.

    The files are checked before any work, and moved into place together when all of them are written.
    """

    source: opt.Source
    output: opt.Output
    modality: opt.Modality = None
    layer: opt.Layer = None
    kind: opt.Kind = None
    round_counts: opt.RoundCounts = None
    key_added: opt.KeyAdded = None
    scale: opt.Scale = None
    genes: opt.Genes = None
    gene_column: opt.GeneColumn = None
    feature_type: opt.FeatureType = None
    genes_in: opt.GenesIn = None
    transpose: opt.Transpose = False
    accept_orientation: opt.AcceptOrientation = False
    decimal: opt.Decimal = "."
    missing: opt.Missing = None
    annotation: opt.Annotation = None
    keep_observed: opt.KeepObserved = None
    outputs: opt.Outputs = None
    uncertainty: opt.Uncertainty = None
    draws: opt.Draws = 0
    compression: opt.Compression = None
    safe_csv: opt.SafeCsv = False
    workers: opt.Workers = 0
    scheduler: opt.Scheduler = ""
    reproducible: opt.Reproducible = False
    force: opt.Force = False
    quiet: opt.Quiet = False
    as_json: opt.AsJson = False

    def options(self) -> Options:
        """The options for the library."""
        from imputome.api.plan import Options

        return Options(
            layer=self.layer,
            kind=self.kind,  # type: ignore[arg-type]
            round_counts=self.round_counts,
            accept_orientation=self.accept_orientation,
            key_added=self.key_added,
            scale=self.scale,  # type: ignore[arg-type]
            genes=None if self.genes is None else opt.gene_list(self.genes),
            gene_column=self.gene_column,
            feature_type=self.feature_type,
            keep_observed=self.keep_observed,
            outputs=tuple(opt.split_names(self.outputs)),
            uncertainty=self.uncertainty is not None,
            draws=self.draws,
            reproducible=self.reproducible,
        )

    @property
    def table_options(self) -> TableOptions:
        """How the input is to be read if it is a table."""
        return opt.table_options(self.decimal, self.missing, self.annotation)

    @property
    def further(self) -> dict[str, Any]:
        """Options of the command line alone that differ from their defaults, for the record."""
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in RECORDED}
        if self.draw_files:  # the record counts draws that are layers
            given["draws"] = self.draws
        defaults = {each.name: each.default for each in fields(self)}
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in given.items()
            if value != defaults[name]
        }

    @property
    def is_store(self) -> bool:
        """Whether the output holds an AnnData, and so layers."""
        return self.output.suffix.lower() in STORES or is_multimodal(self.output)

    @property
    def draw_files(self) -> dict[int, Path]:
        """Number -> table of each multiple imputation; empty if they are layers."""
        from imputome.io.tables import table_suffix
        from imputome.result.matrices import draw_names, draw_path

        suffix = table_suffix(self.output)
        return {n: draw_path(self.output, name, suffix) for n, name in draw_names(self.draws).items() if suffix}

    @property
    def draw_layers(self) -> tuple[str, ...]:
        """Names of the multiple imputations that are layers."""
        from imputome.result.matrices import draw_names

        return () if self.draw_files else tuple(draw_names(self.draws).values())

    @property
    def tables(self) -> list[Path]:
        """The tables to write in addition to the output."""
        return [*([self.uncertainty] if self.uncertainty else []), *self.draw_files.values()]

    @cached_property
    def seen(self) -> Fingerprint:
        """What the source was when it was first asked for, which is before it is read."""
        from imputome.io.integrity import Fingerprint

        return Fingerprint.of(self.source)

    # -- before the work -----------------------------------------------------------------------------------------------
    def check_paths(self) -> None:
        """Check every path before anything is read."""
        from imputome.io.store import check_compression, check_output
        from imputome.io.tables import table_suffix

        check_output(self.output, self.source, overwrite=self.force, outputs=opt.split_names(self.outputs))
        if is_multimodal(self.output):
            self._check_multimodal()
        if self.workers or self.scheduler:
            self._check_parallel()
        if self.key_added is not None and not self.is_store:
            text = (
                f"the table {self.output} has no layers to name: leave {{key_added}} out, or end it in .h5ad or .zarr"
            )
            raise InputError(text, code="table-without-layers", key_added=...)
        if self.compression is not None:
            check_compression(self.output, self.compression)
        texts = [path for path in (self.output, *self.tables) if table_suffix(path) not in (None, ".parquet")]
        if self.safe_csv and not texts:
            text = f"{{safe_csv}} is for text tables, and {self.output} is none: leave it out"
            raise InputError(text, code="option-unused", safe_csv=...)
        if self.uncertainty is not None and table_suffix(self.uncertainty) is None:
            raise InputError(
                f"{self.uncertainty} is not a table: end it in .csv.gz or so, or pass {{outputs}} for a layer",
                code="not-a-table",
                parameter="uncertainty",
                outputs="variance",
            )
        for path in self.tables:
            check_output(path, self.source, overwrite=self.force)
        if self.draw_files and self.force:
            self._warn_of_older_draws()
        places = [path.resolve() for path in (self.output, *self.tables)]
        if len(set(places)) < len(places):
            raise InputError(
                f"{self.uncertainty} is the path of another output: give another",
                code="same-path",
                parameter="uncertainty",
            )

    def _check_multimodal(self) -> None:
        """Refuse what would change the cells or genes of a modality, which the other parts of the file know."""
        for name in ("genes", "transpose", "samples"):
            if getattr(self, name, None):
                options: dict[str, Any] = {name: ...}
                text = f"{self.output} keeps the cells and genes of the input: leave {{{name}}} out, or end it in .h5ad"
                raise InputError(text, code="kept-in-h5mu", parameter=name, **options)

    def _check_parallel(self) -> None:
        """Refuse what workers cannot write or read together."""
        name = "scheduler" if self.scheduler else "workers"
        remedy: dict[str, Any] = {name: ...}
        if self.output.suffix.lower() != ".zarr":
            text = f"several processes can write a .zarr only: end {self.output} in .zarr, or leave {{{name}}} out"
            raise InputError(text, code="workers-need-zarr", **remedy)
        if self.source.suffix.lower() not in STORES or self.transpose or self.missing or self.draws:
            text = f"workers read a .h5ad or .zarr as it is, and write no draws: convert {self.source} first, or leave "
            raise InputError(f"{text}{{{name}}} out", code="workers-need-store", **remedy)

    def _warn_of_older_draws(self) -> None:
        from imputome.io.tables import table_suffix

        name, suffix = self.output.name, table_suffix(self.output) or ""
        pattern = f"{escape(name[: -len(suffix)])}.draw[0-9]*{escape(name[-len(suffix) :])}"
        older = sorted(set(self.output.parent.glob(pattern)) - set(self.draw_files.values()))
        if older:
            text = f"{len(older)} multiple imputations of an earlier run are still there, from {older[0]} on"
            warning_line(Message(text, code="older-draws"))

    def check(self, adata: AnnData, key: str, outputs: Iterable[str], columns: np.ndarray | None) -> None:
        """Check that the key is free, that the result fits on the disk, and that a table can hold the names."""
        from imputome.io.store import check_space
        from imputome.io.tables import check_parquet_names
        from imputome.result.layout import check_free

        outputs = list(outputs)
        if self.is_store:
            check_free(adata, key, [*outputs, *self.draw_layers], overwrite=self.force)
        if any(path.suffix.lower() == ".parquet" for path in (self.output, *self.tables)):
            check_parquet_names(adata, self.genes_in or "columns", columns)
        matrices = 1 + len(outputs) + self.draws + (self.uncertainty is not None)
        n_genes = adata.n_vars if columns is None else len(columns)
        check_space(self.output, adata.n_obs, n_genes, bytes_per_value=4 * matrices)

    def read(self) -> AnnData:
        """Read the input and print its warnings.

        A table may be written from an input that is not a table; ``genes_in`` then says how to write it. If the text of
        observed values is kept, the values are read in float32.
        """
        import numpy as np

        from imputome.io.reading import read
        from imputome.io.tables import table_suffix

        self.seen.check()  # looks at the source for the first time
        tables = [path for path in (self.output, self.uncertainty) if path and table_suffix(path)]
        only_written = tables and table_suffix(self.source) is None
        with warnings_as_lines(quiet=self.quiet):
            adata = read(
                self.source,
                genes_in=None if only_written else self.genes_in,
                transpose=self.transpose,
                modality=self.modality,
                backed=None,
                dtype=np.float32 if self.keeps_text() else np.float64,
                options=self.table_options,
            )
        if self.quiet:
            return adata
        names = adata.var_names if self.genes_in == "rows" else adata.obs_names
        if table_suffix(self.source) == ".parquet" and all(_DECIMAL.fullmatch(name) for name in names):
            text = f"the first column of {self.source} ({', '.join(names[:3])}, ...) was read as names but looks like "
            text += "values: if the table has no names, add a first column of names"
            warning_line(Message(text, code="names-like-values"))
        return adata

    def warn(self, messages: Iterable[Message]) -> None:
        """Print warnings; those of the plan are printed before the fit, which may take long."""
        if not self.quiet:
            for message in messages:
                warning_line(message)

    # -- writing -------------------------------------------------------------------------------------------------------
    def write(self, plan: Plan, run: Run, *, joined: bool = False) -> Record:
        """Print what the fit has to say and write all files; ``joined``: obs has columns that the source lacks."""
        from imputome.core.atomic import atomic_path
        from imputome.io.store import write_result
        from imputome.result.matrices import Finite

        self.warn(message for message in run.messages if message not in plan.messages)
        record = run.record()
        record = replace(record, draws=len(self.draw_layers), options={**record.options, **self.further})
        if plan.columns is not None:
            record = replace(record, genes=tuple(plan.adata.var_names[plan.columns].astype(str)))
        with ExitStack() as files:
            if self.tables:
                with progress("writing tables", quiet=self.quiet) as show:
                    self._write_tables(run, plan, files, show)
            with progress(f"writing {self.output.name}", quiet=self.quiet) as show:

                def advance(done: int, total: int) -> None:
                    show(done / total, "")

                if self.is_store:
                    write_result(
                        self.output,
                        plan.adata,
                        run.imputation,
                        key=plan.key,
                        record=record,
                        genes=plan.columns,
                        scale=run.scale,
                        keep_observed=plan.options.keep_observed,
                        source=None if joined or self.transpose else self.source,
                        seen=self.seen,
                        progress=advance,
                        overwrite=self.force,
                        outputs=run.outputs,
                        draws=len(self.draw_layers),
                        compression=self.compression,
                        modality=self.modality,
                        writer=self._writer(plan, run),
                    )
                else:
                    partial = files.enter_context(atomic_path(self.output, overwrite=self.force))
                    how = {"scale": run.scale, "keep_observed": plan.options.keep_observed}
                    values = Finite(run.imputation, run.estimator.name)
                    self._fill(partial, self.output, run, values, plan, options=how, progress=advance)
        return record

    def _writer(self, plan: Plan, run: Run) -> RowWriter | None:
        """The workers that impute and write the rows; None if this process does."""
        if not (self.workers or self.scheduler):
            return None
        if not run.estimator.imputes_by_rows(plan.data):
            text = f"{run.estimator.name} imputes all cells together, so this process writes them, without workers"
            self.warn([Message(text, code="workers-unused")])
            return None
        from imputome.io.parallel import Workers

        return Workers(
            run.estimator,
            self.source,
            plan.options.layer,
            plan.report,
            plan.data,
            matched=plan.matched,
            number=self.workers,
            scheduler=self.scheduler,
        )

    def _write_tables(self, run: Run, plan: Plan, files: ExitStack, show: Callable[[float, str], None]) -> None:
        """Write the tables beside the output, to be moved into place together with it."""
        from imputome.core.atomic import atomic_path
        from imputome.result.matrices import Drawn, Finite, Spread

        tasks: list[tuple[Path, Matrix, str | None]] = []
        if self.uncertainty is not None:
            tasks.append((self.uncertainty, Spread(run.imputation, run.keep_observed), "0"))
        tasks += [(path, Drawn(run.imputation, number), None) for number, path in self.draw_files.items()]
        partials = [files.enter_context(atomic_path(path, overwrite=self.force)) for path, _, _ in tasks]
        for k, (path, matrix, observed) in enumerate(tasks):

            def advance(done: int, total: int, k: int = k) -> None:
                show((k + done / total) / len(tasks), "")

            checked = Finite(matrix, run.estimator.name)
            self._fill(partials[k], path, run, checked, plan, observed=observed, progress=advance)

    # -- tables as text ------------------------------------------------------------------------------------------------
    def keeps_text(self) -> bool:
        """Whether the output can be the text of the input, in which only missing real values have changed."""
        from imputome.io.table_patch import keeps_text

        asked = self.genes is None and self.keep_observed is not False and self.scale in (None, "input")
        return asked and keeps_text(self.source, self.output)

    def _text_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the table of a matrix of cells x genes."""
        return shape[::-1] if self.genes_in == "rows" else shape

    def _fill(
        self,
        partial: Path,
        path: Path,
        run: Run,
        matrix: Matrix,
        plan: Plan,
        *,
        options: Mapping[str, Any] = MappingProxyType({}),
        observed: str | None = None,
        progress: Callable[[int, int], object],
    ) -> None:
        """Write one table, as the text of the input with other values if it is a text table of the same kind.

        ``options`` go to the ``rows`` of the matrix. Of real values, only the missing ones are replaced; ``observed``
        replaces the others, None keeps their text. Counts have zeros that may be missing, so all are written.
        """
        from imputome.io.table_patch import every, keeps_text, missing, rewrite
        from imputome.io.tables import fill_table, table_suffix

        result, genes_in = run.imputation, self.genes_in or "columns"
        counts = result.data.kind == "counts"
        if plan.columns is None and keeps_text(self.source, path) and (counts or run.keep_observed):
            if counts:
                lines, observed = every(matrix, genes_in=genes_in, options=options), None
            else:
                lines = missing(result, matrix, genes_in=genes_in)
            rewrite(
                self.source,
                partial,
                lines,
                genes_in=genes_in,
                shape=self._text_shape(result.shape),
                whole=counts,
                observed=observed,
                safe=self.safe_csv,
                options=self.table_options,
                progress=progress,
            )
            self.seen.check()
            return
        annotation = None
        if table_suffix(self.source) is not None:
            by_gene = genes_in == "rows"
            annotation = plan.adata.var if by_gene else plan.adata.obs
            annotation = annotation.iloc[plan.columns] if by_gene and plan.columns is not None else annotation
        fill_table(
            partial,
            matrix,
            genes=plan.columns,
            genes_in=genes_in,
            options=options,
            annotation=annotation,
            safe=self.safe_csv,
            progress=progress,
        )

    def write_unchanged(self, adata: AnnData) -> None:
        """Write the source again because nothing is missing: as the output and as each draw; every deviation is 0."""
        import numpy as np

        from imputome.core.atomic import atomic_path
        from imputome.io.table_patch import copy_text, keeps_text, rewrite
        from imputome.io.tables import fill_table
        from imputome.result.matrices import ZeroDeviations

        def again(partial: Path, observed: str | None) -> None:
            shape = self._text_shape(adata.shape)
            nothing = (np.empty(0, dtype=np.intp), np.empty(0))
            rewrite(
                self.source,
                partial,
                repeat(nothing, shape[0]),
                genes_in=self.genes_in or "columns",
                shape=shape,
                observed=observed,
                safe=self.safe_csv,
                options=self.table_options,
            )

        with ExitStack() as files:
            if self.uncertainty is not None:
                partial = files.enter_context(atomic_path(self.uncertainty, overwrite=self.force))
                if keeps_text(self.source, self.uncertainty):
                    again(partial, "0")
                else:
                    zeros = ZeroDeviations(adata.obs_names, adata.var_names)
                    fill_table(partial, zeros, genes_in=self.genes_in or "columns", safe=self.safe_csv)
            for path in (*self.draw_files.values(), self.output):
                partial = files.enter_context(atomic_path(path, overwrite=self.force))
                if self.safe_csv:
                    again(partial, None)
                else:
                    copy_text(self.source, partial)
            self.seen.check()
        if self.as_json:
            print_json({"output": str(self.output), "shape": list(adata.shape), "n_missing": 0, **self._beside()})
        elif not self.quiet:
            print_line(f"nothing is missing in {self.source}: nothing was fitted")
            known = adata.X.count_nonzero() if hasattr(adata.X, "count_nonzero") else np.count_nonzero(adata.X)
            if known < adata.n_obs * adata.n_vars:
                zeros = adata.n_obs * adata.n_vars - known
                print_line(f"{zeros:,} zeros count as values: {opt.flag('missing', '0')} makes them missing")
            print_line(f"wrote the same table to {_shown(self.output)}")
            for line in self._table_lines(""):
                print_line(line)

    # -- what was done -------------------------------------------------------------------------------------------------
    def print_result(self, plan: Plan, run: Run, record: Record, summary: dict[str, Any] | None = None) -> None:
        """Print what was written; ``summary`` goes into the output of ``--json``."""
        result = run.imputation
        n, n_genes = result.shape[0], result.shape[1] if plan.columns is None else len(plan.columns)
        if self.as_json:
            key = plan.key if self.is_store else None  # a table has no layer to name
            first = {"output": str(self.output), "key": key, "shape": [n, n_genes]}
            print_json({**first, **record.brief(), **self._beside(), **(summary or {})})
        if self.as_json or self.quiet:
            return
        lines = [f"{run.size}, {run.report.state} in {run.report.where}"]
        lines.append(f"{run.estimator.name}: {ending(run)}, {run.seconds:.1f} s")
        if result.unusable:
            cells, genes = len(result.unusable.obs_names), len(result.unusable.var_names)
            fallback = result.unusable.fallback
            lines.append(f"without an observed value: {cells:,} cells, {genes:,} genes (filled with {fallback})")
        place = f", layer {plan.key!r}" if self.is_store else ""
        lines.append(f"wrote {n:,} x {n_genes:,} values on scale {run.scale} to {_shown(self.output)}{place}")
        if run.outputs:
            lines.append(f"and the layers {', '.join(f'{plan.key}_{name}' for name in run.outputs)}")
        for line in (*lines, *self._table_lines(plan.key)):
            print_line(line)
        print_check(record.race, record.verdict)

    def _beside(self) -> dict[str, Any]:
        """For ``--json``: what was written in addition to the values."""
        summary: dict[str, Any] = {}
        if self.uncertainty is not None:
            summary["uncertainty"] = str(self.uncertainty)
        if self.draws:
            summary["draws"] = [str(path) for path in self.draw_files.values()] or self.draws
        return summary

    def _table_lines(self, key: str) -> list[str]:
        lines = []
        if self.uncertainty is not None:
            lines.append(f"wrote standard deviations to {self.uncertainty} (0 for observed values)")
        names = [path.name for path in self.draw_files.values()] or [f"{key}_{name}" for name in self.draw_layers]
        if names:
            span = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            lines.append(f"wrote {self.draws} multiple imputations: {'' if self.draw_files else 'layers '}{span}")
        return lines


def missing_values(adata: AnnData, report: InputReport) -> MissingnessReport:
    """What is missing from the real values of a report, and which method is advised."""
    import numpy as np

    from imputome.inspection.missingness import missingness
    from imputome.inspection.source import layer_in_memory
    from imputome.result.adapt import part_of

    part = part_of(adata, report)
    X = layer_in_memory(part, report.layer)
    dense = X if isinstance(X, np.ndarray) else X.toarray()
    return missingness(dense, obs_names=list(part.obs_names), var_names=list(part.var_names))


def ending(run: Run) -> str:
    """How the fit ended, in a few words."""
    if run.estimator.replaced_by:
        return "replaced (see the warning)"
    status = run.imputation.status
    text = status.message if status.converged else f"did not converge ({status.name})"
    return text or "no iteration needed"
