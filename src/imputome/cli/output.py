"""The files that `imputome impute` and `imputome apply` write: checked before any work, written together at the end."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from glob import escape
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from imputome.cli.console import print_check, print_json, progress, warning_line

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from imputome.api.plan import Plan
    from imputome.result.matrices import Matrix
    from imputome.result.record import Record
    from imputome.result.run import Run

STORES = (".h5ad", ".zarr")
_DECIMAL = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class OutputFiles:
    """Where a result goes (a `imputome.api.plan.Destination`).

    Attributes
    ----------
    source, output : Path
        The input, and the file of the result.
    genes_in : str
        Orientation of tables: where the genes are, ``"rows"`` or ``"columns"``.
    uncertainty : Path or None
        Table of standard deviations.
    draws : int
        Number of multiple imputations.
    draw_files : tuple of (int, Path)
        Number and table of each multiple imputation; empty if they are layers.
    draw_layers : tuple of str
        Names of the multiple imputations that are layers.
    report : Path or None
        Page to write.
    label : str or None
        Column of ``obs`` that colours the cells of the report.
    changed : bool
        Whether the AnnData has columns that the source does not have.
    """

    source: Path
    output: Path
    genes_in: str | None = None
    uncertainty: Path | None = None
    draws: int = 0
    draw_files: tuple[tuple[int, Path], ...] = ()
    draw_layers: tuple[str, ...] = ()
    report: Path | None = None
    label: str | None = None
    force: bool = False
    quiet: bool = False
    changed: bool = False

    @property
    def is_store(self) -> bool:
        """Whether the output holds an AnnData, and so layers."""
        return self.output.suffix.lower() in STORES

    @property
    def tables(self) -> list[Path]:
        """The tables that stand beside the output."""
        return [*([self.uncertainty] if self.uncertainty else []), *(path for _, path in self.draw_files)]

    # -- before the work -----------------------------------------------------------------------------------------------
    def check_paths(self, outputs: Iterable[str] = ()) -> OutputFiles:
        """Check every path before anything is read; returns the same with the files of the multiple imputations."""
        from imputome.errors import InputError
        from imputome.io.store import check_output
        from imputome.io.tables import table_suffix
        from imputome.result.matrices import draw_names, draw_path

        check_output(self.output, self.source, overwrite=self.force, outputs=list(outputs))
        suffix, names = table_suffix(self.output), draw_names(self.draws)
        if self.uncertainty is not None and table_suffix(self.uncertainty) is None:
            raise InputError(
                f"{self.uncertainty} is no table: end it in .csv.gz or another table, or pass {{outputs}} for a layer",
                code="not-a-table",
                parameter="uncertainty",
                outputs="variance",
            )
        draw_files = tuple((n, draw_path(self.output, name, suffix)) for n, name in names.items()) if suffix else ()
        files = replace(self, draw_files=draw_files, draw_layers=() if suffix else tuple(names.values()))
        for path in files.tables:
            check_output(path, self.source, overwrite=self.force)
        if draw_files and suffix and self.force:
            files._warn_of_older_draws(suffix)
        places = [path.resolve() for path in (self.output, *files.tables)]
        if len(set(places)) < len(places):
            raise InputError(
                f"{self.uncertainty} is the path of another output: give another",
                code="same-path",
                parameter="uncertainty",
            )
        return files

    def _warn_of_older_draws(self, suffix: str) -> None:
        name = self.output.name
        pattern = f"{escape(name[: -len(suffix)])}.draw[0-9]*{escape(name[-len(suffix) :])}"
        older = sorted(set(self.output.parent.glob(pattern)) - {path for _, path in self.draw_files})
        if older:
            warning_line(f"{len(older)} multiple imputations of an earlier run are still there, from {older[0]} on")

    def check_report(self, adata: AnnData) -> None:
        """Check that the page can be written."""
        if self.report is None:
            return
        from imputome.report.html.content import chosen_label
        from imputome.report.html.page import check_installed, check_path

        check_installed()
        check_path(self.report, overwrite=self.force)
        chosen_label(adata.obs, self.label)

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

    # -- writing -------------------------------------------------------------------------------------------------------
    def write(self, plan: Plan, run: Run, *, as_json: bool, summary: dict[str, Any] | None = None) -> None:
        """Warn, write all files, and print what was done; ``summary`` goes into the output of ``--json``."""
        from imputome.core.atomic import atomic_path

        if not self.quiet:
            for message in run.messages:
                warning_line(message)
        record = replace(run.record(), draws=len(self.draw_layers))
        n, n_genes = plan.adata.n_obs, plan.adata.n_vars
        if plan.columns is not None:
            record = replace(record, genes=tuple(plan.adata.var_names[plan.columns].astype(str)))
            n_genes = len(plan.columns)
        with ExitStack() as files:
            if self.tables:
                with progress("writing tables", quiet=self.quiet) as show:
                    self._write_tables(run, plan.columns, files, show)
            with progress(f"writing {self.output.name}", quiet=self.quiet) as show:

                def advance(done: int, total: int) -> None:
                    show(done / total, "")

                if self.keeps_text(self.output, plan.columns, run):
                    partial = files.enter_context(atomic_path(self.output))
                    self._fill(partial, self.output, run, run.imputation, plan.columns, progress=advance)
                else:
                    self._write_result(plan, run, record, advance)
        if self.report is not None:
            with progress(f"writing {self.report.name}", quiet=self.quiet) as show:
                show(0.0, "")
                self._write_report(self.report, plan, run, record)
        if as_json:
            first = {"output": str(self.output), "key": plan.key, "shape": [n, n_genes]}
            print_json({**first, **record.brief(), **self._summary(), **(summary or {})})
        elif not self.quiet:
            for line in (*self._result_lines(plan, run, n_genes), *self._table_lines(plan.key)):
                typer.echo(line)
            if self.report is not None:
                typer.echo(f"report: {self.report}")
            print_check(record.race, record.verdict)

    def _write_result(self, plan: Plan, run: Run, record: Record, advance: Callable[[int, int], object]) -> None:
        from imputome.io.store import write_result

        write_result(
            self.output,
            plan.adata,
            run.imputation,
            key=plan.key,
            record=record,
            genes=plan.columns,
            scale=run.scale,
            keep_observed=plan.options.keep_observed,
            source=None if self.changed else self.source,
            progress=advance,
            overwrite=self.force,
            genes_in=self.genes_in,
            outputs=run.outputs,
            draws=len(self.draw_layers),
        )

    def _write_report(self, path: Path, plan: Plan, run: Run, record: Record) -> None:
        from imputome.report.html.content import of_imputation
        from imputome.report.html.page import write_report

        content = of_imputation(
            run.imputation.data,
            run.imputation,
            record=record,
            key=plan.key,
            scale=run.scale,
            labels=plan.adata.obs,
            label=self.label,
            source=self.source.name,
            genes=plan.columns,
            keep_observed=plan.options.keep_observed,
        )
        write_report(path, content, overwrite=self.force)

    def _write_tables(
        self, run: Run, columns: np.ndarray | None, files: ExitStack, show: Callable[[float, str], None]
    ) -> None:
        """Write the tables beside the output, to be moved into place together with it."""
        from imputome.core.atomic import atomic_path
        from imputome.result.matrices import Drawn, Spread

        tasks: list[tuple[Path, Matrix, str | None]] = []
        if self.uncertainty is not None:
            tasks.append((self.uncertainty, Spread(run.imputation, run.keep_observed), "0"))
        tasks += [(path, Drawn(run.imputation, number), None) for number, path in self.draw_files]
        partials = [files.enter_context(atomic_path(path)) for path, _, _ in tasks]
        for k, (path, matrix, observed) in enumerate(tasks):

            def advance(done: int, total: int, k: int = k) -> None:
                show((k + done / total) / len(tasks), "")

            self._fill(partials[k], path, run, matrix, columns, observed=observed, progress=advance)

    # -- tables as text ------------------------------------------------------------------------------------------------
    def keeps_text(self, path: Path, columns: Any = None, run: Run | None = None) -> bool:
        """Whether the text of the source can be kept in ``path``, and the text of observed values is to be kept."""
        from imputome.io.table_patch import keeps_text

        if columns is not None or not keeps_text(self.source, path):
            return False
        return run is None or (run.imputation.data.kind == "real" and run.keep_observed)

    def _text_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the table of a matrix of cells x genes."""
        return shape[::-1] if self.genes_in == "rows" else shape

    def _fill(
        self,
        partial: Path,
        path: Path,
        run: Run,
        matrix: Matrix,
        columns: np.ndarray | None,
        *,
        observed: str | None = None,
        progress: Callable[[int, int], object],
    ) -> None:
        """Write one table; ``observed`` replaces observed values in a text that is kept, None keeps their text."""
        from imputome.io.table_patch import missing, rewrite
        from imputome.io.tables import fill_table

        result, genes_in = run.imputation, self.genes_in or "columns"
        if self.keeps_text(path, columns, run):
            lines, shape = missing(result, matrix, genes_in=genes_in), self._text_shape(result.shape)
            rewrite(self.source, partial, lines, shape=shape, observed=observed, progress=progress)
        else:
            fill_table(partial, matrix, genes=columns, genes_in=genes_in, progress=progress)

    def write_unchanged(self, adata: AnnData, *, as_json: bool) -> None:
        """Write the source again because nothing is missing: as the output and as each draw; every deviation is 0."""
        import numpy as np

        from imputome.core.atomic import atomic_path
        from imputome.io.table_patch import copy_text, rewrite
        from imputome.io.tables import fill_table
        from imputome.result.matrices import Zeros

        with ExitStack() as files:
            if self.uncertainty is not None:
                partial = files.enter_context(atomic_path(self.uncertainty))
                if self.keeps_text(self.uncertainty):
                    shape = self._text_shape(adata.shape)
                    nothing = (np.empty(0, dtype=np.intp), np.empty(0))
                    rewrite(self.source, partial, repeat(nothing, shape[0]), shape=shape, observed="0")
                else:
                    fill_table(partial, Zeros(adata.obs_names, adata.var_names), genes_in=self.genes_in or "columns")
            for path in (*(path for _, path in self.draw_files), self.output):
                copy_text(self.source, files.enter_context(atomic_path(path)))
        if as_json:
            first = {"output": str(self.output), "shape": list(adata.shape), "n_missing": 0}
            print_json({**first, **self._summary()})
        elif not self.quiet:
            typer.echo(f"nothing is missing in {self.source} (zeros count as values): nothing was fitted")
            typer.echo(f"wrote the same table to {self.output}")
            for line in self._table_lines(""):
                typer.echo(line)

    # -- what was done -------------------------------------------------------------------------------------------------
    def _summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = {}
        if self.uncertainty is not None:
            summary["uncertainty"] = str(self.uncertainty)
        if self.draws:
            summary["draws"] = [str(path) for _, path in self.draw_files] or self.draws
        return summary

    def _result_lines(self, plan: Plan, run: Run, n_genes: int) -> list[str]:
        result = run.imputation
        lines = [f"{run.size}, {run.report.state} in {run.report.where}"]
        lines.append(f"{run.estimator.name}: {ending(run)}, {run.seconds:.1f} s")
        if result.unusable:
            cells, genes = len(result.unusable.obs_names), len(result.unusable.var_names)
            fallback = result.unusable.fallback
            lines.append(f"without an observed value: {cells:,} cells, {genes:,} genes (filled with {fallback})")
        place = f", layer {plan.key!r}" if self.is_store else ""
        lines.append(f"wrote {result.shape[0]:,} x {n_genes:,} values on scale {run.scale} to {self.output}{place}")
        if run.outputs:
            lines.append(f"and the layers {', '.join(f'{plan.key}_{name}' for name in run.outputs)}")
        return lines

    def _table_lines(self, key: str) -> list[str]:
        lines = []
        if self.uncertainty is not None:
            lines.append(f"wrote standard deviations to {self.uncertainty} (0 for observed values)")
        names = [path.name for _, path in self.draw_files] or [f"{key}_{name}" for name in self.draw_layers]
        if names:
            span = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            lines.append(f"wrote {self.draws} multiple imputations: {'' if self.draw_files else 'layers '}{span}")
        return lines


def ending(run: Run) -> str:
    """How the fit ended, in a few words."""
    status = run.imputation.status
    text = status.message if status.converged else f"did not converge ({status.name})"
    return text or "no iteration needed"


def read_input(
    source: Path, outputs: Iterable[Path | None], genes_in: str | None, *, keeps_text: bool, quiet: bool
) -> AnnData:
    """Read the input and print its warnings.

    A table may be written from an input that is no table; ``genes_in`` then says how to write it. With ``keeps_text``
    the values are read in float32, because the text of observed values is kept.
    """
    import numpy as np

    from imputome.io.reading import read
    from imputome.io.tables import check_genes_in, read_table, table_suffix

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if keeps_text and source.is_file():
            check_genes_in(genes_in)
            adata = read_table(source, genes_in=genes_in, dtype=np.float32)
        else:
            to_table = any(path is not None and table_suffix(path) is not None for path in outputs)
            adata = read(source, genes_in=None if to_table and table_suffix(source) is None else genes_in)
    for warning in caught:
        if not quiet and warning.category is UserWarning:
            message = warning.message
            warning_line(message.args[0] if isinstance(message, Warning) and message.args else str(message))
    if not quiet and table_suffix(source) is not None:
        _warn_of_numbers_as_names(adata, source, genes_in)
    return adata


def _warn_of_numbers_as_names(adata: AnnData, source: Path, genes_in: str | None) -> None:
    """Warn if the first column of a table looks like values and was taken for names."""
    names = adata.var_names if genes_in == "rows" else adata.obs_names
    if all(_DECIMAL.fullmatch(name) for name in names):
        warning_line(
            f"the first column of {source} ({', '.join(names[:3])}, ...) was taken for names and looks like values: if "
            "the table has no names, put a column of names in front"
        )
