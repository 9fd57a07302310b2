"""What `impute` and `apply` share: where the result goes, checked before the work, and writing it there."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from imputome.cli.console import print_json, progress, say_verdict, warning_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from anndata import AnnData

    from imputome.core.imputation import Output
    from imputome.core.imputer import Imputer
    from imputome.result.matrices import Shown
    from imputome.result.record import Record
    from imputome.result.run import Run

MAX_DRAWS = 999


@dataclass(frozen=True)
class Beside:
    """The files asked for beside the output, and the layers, none of which is in the way of another.

    Attributes
    ----------
    uncertainty : table of standard deviations, or None.
    draws : number of multiple imputations.
    files : number -> table of each draw; empty where they are layers.
    layers : names of the draws that are layers.
    """

    uncertainty: Path | None = None
    draws: int = 0
    files: tuple[tuple[int, Path], ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def matrices(self) -> int:
        """How many there are, each of the size of the result."""
        return self.draws + (self.uncertainty is not None)

    def summary(self) -> dict[str, Any]:
        """For ``--json``."""
        found: dict[str, Any] = {}
        if self.uncertainty is not None:
            found["uncertainty"] = str(self.uncertainty)
        if self.draws:
            found["draws"] = [str(path) for _, path in self.files] or self.draws
        return found

    def lines(self, key: str) -> list[str]:
        """What was written, for a person."""
        said = []
        if self.uncertainty is not None:
            said.append(f"wrote standard deviations to {self.uncertainty} (0 where a value was observed)")
        if self.files:
            said.append(f"wrote {self.draws} multiple imputations: {self._span([path.name for _, path in self.files])}")
        if self.layers:
            layers = self._span([f"{key}_{name}" for name in self.layers])
            said.append(f"and {self.draws} multiple imputations, layers {layers}")
        return said

    @staticmethod
    def _span(names: list[str]) -> str:
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def checked_beside(
    output: Path,
    source: Path,
    *,
    uncertainty: Path | None,
    draws: int,
    outputs: Iterable[str],
    force: bool,
) -> Beside:
    """Refuse, before anything is read, each file that could not or should not be written, the output first."""
    from imputome.errors import InputError
    from imputome.io.store import check_output
    from imputome.io.tables import table_suffix
    from imputome.result.matrices import draw_names, draw_path

    check_output(output, source, overwrite=force, outputs=list(outputs))
    suffix, names = table_suffix(output), draw_names(draws)
    files = tuple((number, draw_path(output, name, suffix)) for number, name in names.items()) if suffix else ()
    if uncertainty is not None and table_suffix(uncertainty) is None:
        raise InputError(
            f"--uncertainty {uncertainty} is no table: end it in .csv.gz or another of a table, or pass --outputs "
            "variance for a layer"
        )
    others = [path for _, path in files] + ([] if uncertainty is None else [uncertainty])
    for path in others:
        check_output(path, source, overwrite=force)
    if files and suffix and force:
        _warn_of_leftovers(output, suffix, files)
    places = [path.resolve() for path in (output, *others)]
    if len(set(places)) < len(places):
        raise InputError(f"--uncertainty {uncertainty} is the path of another output: give another")
    return Beside(uncertainty, draws, files, () if suffix else tuple(names.values()))


def _warn_of_leftovers(output: Path, suffix: str, files: Iterable[tuple[int, Path]]) -> None:
    """Say that draws of an earlier run, which had more of them, stay beside those of this one."""
    name = output.name
    pattern = f"{escape(name[: -len(suffix)])}.draw[0-9]*{escape(name[-len(suffix) :])}"
    old = sorted(set(output.parent.glob(pattern)) - {path for _, path in files})
    if old:
        warning_line(f"{len(old)} draws of an earlier run stay where they are, from {old[0]} on: remove them")


def check_offered(beside: Beside, estimator: Imputer) -> tuple[Output, ...]:
    """The outputs that are needed for what is asked for; refused where the method has none."""
    from imputome.errors import InputError
    from imputome.methods import info, names
    from imputome.result.layout import checked_outputs

    if beside.draws and not estimator.info.draws:
        able = ", ".join(name for name in names() if info(name).draws) or "none here"
        raise InputError(f"{estimator.name} knows no distribution to draw from: leave --draws out, or choose of {able}")
    if beside.uncertainty is None:
        return ()
    try:
        return checked_outputs(estimator, ("variance",))
    except InputError as error:
        raise InputError(f"--uncertainty needs the variance of each value, and {error}") from error


@dataclass(frozen=True)
class Table:
    """How tables are written: as text that is kept where it can be, else anew.

    Attributes
    ----------
    source : the input.
    genes_in : orientation.
    genes : positions of those to write; None means all.
    """

    source: Path
    genes_in: str
    genes: Any = None

    def keeps_text(self, path: Path, run: Run | None = None) -> bool:
        """Whether the text of the source can be kept in ``path``, and of observed values is to be."""
        from imputome.io.table_patch import keeps_text

        if self.genes is not None or not keeps_text(self.source, path):
            return False
        return run is None or (run.imputation.data.kind == "real" and run.keep_observed)

    def text_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the table of a matrix of cells x genes."""
        return shape[::-1] if self.genes_in == "rows" else shape

    def fill(
        self,
        partial: Path,
        path: Path,
        run: Run,
        shown: Shown,
        *,
        known: str | None = None,
        progress: Callable[[int, int], object],
    ) -> None:
        """Write one matrix; ``known`` is what stands in a kept text for observed values, None for their own text."""
        from imputome.io.table_patch import missing, rewrite
        from imputome.io.tables import fill_table

        result = run.imputation
        if self.keeps_text(path, run):
            lines, shape = missing(result, shown, genes_in=self.genes_in), self.text_shape(result.shape)
            rewrite(self.source, partial, lines, shape=shape, known=known, progress=progress)
        else:
            fill_table(partial, shown, genes=self.genes, genes_in=self.genes_in, progress=progress)


def write_beside(
    beside: Beside,
    run: Run,
    table: Table,
    files: ExitStack,
    show: Callable[[float, str], None],
) -> None:
    """Write all tables that stand beside the output, to be moved into place with it."""
    from imputome.core.atomic import atomic_path
    from imputome.result.matrices import Drawn, Spread

    tasks: list[tuple[Path, Shown, str | None]] = []
    if beside.uncertainty is not None:
        tasks.append((beside.uncertainty, Spread(run.imputation, run.keep_observed), "0"))
    tasks += [(path, Drawn(run.imputation, number), None) for number, path in beside.files]
    partials = [files.enter_context(atomic_path(path)) for path, _, _ in tasks]
    for k, (path, shown, known) in enumerate(tasks):
        table.fill(
            partials[k],
            path,
            run,
            shown,
            known=known,
            progress=lambda done, total, k=k: show((k + done / total) / len(tasks), ""),  # type: ignore[misc]
        )


def write_complete(adata: AnnData, table: Table, output: Path, beside: Beside) -> None:
    """The same text again where nothing was missing: as the output, and as each draw; every deviation is 0."""
    from itertools import repeat

    import numpy as np

    from imputome.core.atomic import atomic_path
    from imputome.io.table_patch import copy_text, rewrite
    from imputome.io.tables import fill_table
    from imputome.result.matrices import Zeros

    with ExitStack() as files:
        if beside.uncertainty is not None:
            partial = files.enter_context(atomic_path(beside.uncertainty))
            if table.keeps_text(beside.uncertainty):
                shape = table.text_shape(adata.shape)
                nothing = (np.empty(0, dtype=np.intp), np.empty(0))
                rewrite(table.source, partial, repeat(nothing, shape[0]), shape=shape, known="0")
            else:
                fill_table(partial, Zeros(adata.obs_names, adata.var_names), genes_in=table.genes_in)
        for path in (*(path for _, path in beside.files), output):
            copy_text(table.source, files.enter_context(atomic_path(path)))


def say_complete(adata: AnnData, source: Path, output: Path, beside: Beside, *, quiet: bool, as_json: bool) -> None:
    """What was done where there was nothing to do."""
    if as_json:
        summary = {"output": str(output), "shape": list(adata.shape), "n_missing": 0}
        print_json({**summary, **beside.summary()})
    elif not quiet:
        typer.echo(f"nothing is missing in {source}, zeros count as values: nothing was fitted")
        typer.echo(f"wrote the same table to {output}")
        for line in beside.lines(""):
            typer.echo(line)


_DECIMAL = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Target:
    """A file to write a result to, of which all that can be refused has been refused."""

    output: Path
    source: Path
    adata: AnnData
    key: str  # empty until the method is known, see `under`
    genes: np.ndarray | None
    genes_in: str | None
    outputs: tuple[Output, ...]
    beside: Beside
    force: bool
    quiet: bool
    changed: bool = False  # whether ``adata`` has what the source has not
    report: Path | None = None
    label: str | None = None  # column of obs that colours the report's cells

    def under(self, key: str) -> Target:
        """The same with a key; one that is taken is refused."""
        _check_key(self.adata, key, self.output, [*self.outputs, *self.beside.layers], overwrite=self.force)
        return replace(self, key=key)

    def write(
        self, run: Run, *, keep_observed: bool | None, as_json: bool, further: dict[str, Any] | None = None
    ) -> None:
        """Warn, write, and say what was done; ``further`` goes into the summary of ``--json``."""
        from imputome.core.atomic import atomic_path

        if not self.quiet:
            for message in run.messages:
                warning_line(message)
        record = replace(run.record(), draws=len(self.beside.layers))
        n, n_genes = self.adata.n_obs, self.adata.n_vars
        if self.genes is not None:
            record = replace(record, genes=tuple(self.adata.var_names[self.genes].astype(str)))
            n_genes = len(self.genes)
        table = Table(self.source, self.genes_in or "columns", self.genes)
        with ExitStack() as files:
            if self.beside.uncertainty is not None or self.beside.files:
                with progress("writing what stands beside", quiet=self.quiet) as show:
                    write_beside(self.beside, run, table, files, show)
            with progress(f"writing {self.output.name}", quiet=self.quiet) as show:

                def advance(done: int, total: int) -> None:
                    show(done / total, "")

                if table.keeps_text(self.output, run):
                    partial = files.enter_context(atomic_path(self.output))
                    table.fill(partial, self.output, run, run.imputation, progress=advance)
                else:
                    self._write_result(run, keep_observed, record, advance)
        if self.report is not None:
            with progress(f"writing {self.report.name}", quiet=self.quiet) as show:
                show(0.0, "")
                self._write_report(self.report, run, keep_observed, record)
        if as_json:
            summary = {"output": str(self.output), "key": self.key, "shape": [n, n_genes]}
            print_json({**summary, **record.brief(), **self.beside.summary(), **(further or {})})
        elif not self.quiet:
            for line in _summary(run, n, n_genes, self.output, self.key):
                typer.echo(line)
            for line in self.beside.lines(self.key):
                typer.echo(line)
            if self.report is not None:
                typer.echo(f"report: {self.report}")
            say_verdict(record.race, record.verdict)

    def _write_report(self, path: Path, run: Run, keep_observed: bool | None, record: Record) -> None:
        from imputome.report.html.content import of_imputation
        from imputome.report.html.page import write_report

        content = of_imputation(
            run.imputation.data,
            run.imputation,
            record=record,
            key=self.key,
            scale=run.scale,
            labels=self.adata.obs,
            label=self.label,
            source=self.source.name,
            command=record.command,
            genes=self.genes,
            keep_observed=keep_observed,
        )
        write_report(path, content, overwrite=self.force)

    def _write_result(
        self, run: Run, keep_observed: bool | None, record: Record, advance: Callable[[int, int], object]
    ) -> None:
        from imputome.io.store import write_result

        write_result(
            self.output,
            self.adata,
            run.imputation,
            key=self.key,
            record=record,
            genes=self.genes,
            scale=run.scale,
            keep_observed=keep_observed,
            source=None if self.changed else self.source,
            progress=advance,
            overwrite=self.force,
            genes_in=self.genes_in,
            outputs=self.outputs,
            draws=len(self.beside.layers),
        )


def checked_target(
    adata: AnnData,
    *,
    output: Path,
    source: Path,
    key: str,
    genes: str | None,
    gene_column: str | None,
    genes_in: str | None,
    outputs: tuple[Output, ...],
    beside: Beside,
    force: bool,
    quiet: bool,
    changed: bool = False,
    report: Path | None = None,
    label: str | None = None,
) -> Target:
    """Refuse a key that is taken, unknown genes, and a result that does not fit the disk; see `check_report` too."""
    from imputome.io.store import check_space
    from imputome.io.tables import check_parquet_names
    from imputome.result.adapt import gene_positions

    if key:
        _check_key(adata, key, output, [*outputs, *beside.layers], overwrite=force)
    asked = None if genes is None else gene_list(genes)
    wanted = None if asked is None else gene_positions(adata, asked, column=gene_column)
    if asked is not None and wanted is not None and len(wanted) > len(set(asked)) and not quiet:
        warning_line(f"{len(wanted)} genes have the {len(set(asked))} names given: all of them are written")
    tables = [output, *(path for _, path in beside.files), *([beside.uncertainty] if beside.uncertainty else [])]
    if any(path.suffix.lower() == ".parquet" for path in tables):
        check_parquet_names(adata, genes_in or "columns", wanted)
    n_genes = adata.n_vars if wanted is None else len(wanted)
    check_space(output, adata.n_obs, n_genes, bytes_per_value=4 * (1 + len(outputs) + beside.matrices))
    return Target(output, source, adata, key, wanted, genes_in, outputs, beside, force, quiet, changed, report, label)


def _check_key(adata: AnnData, key: str, output: Path, beside: list[str], *, overwrite: bool) -> None:
    from imputome.result.layout import check_free, checked_key

    checked_key(adata, key)
    if output.suffix.lower() in (".h5ad", ".zarr"):
        check_free(adata, key, beside, overwrite=overwrite)


def check_report(path: Path, adata: AnnData, label: str | None, *, overwrite: bool) -> None:
    """Refuse a report that cannot be written, before the work."""
    from imputome.report.html.content import chosen_label
    from imputome.report.html.page import check_installed, check_path

    check_installed()
    check_path(path, overwrite=overwrite)
    chosen_label(adata.obs, label)


def _summary(run: Run, n: int, n_genes: int, output: Path, key: str) -> list[str]:
    """What was done, for a person."""
    result = run.imputation
    lines = [f"{run.size}, {run.report.state} in {run.report.where}"]
    lines.append(f"{run.estimator.name}: {ending(run)}, {run.seconds:.1f} s")
    if result.unusable:
        cells, genes = len(result.unusable.obs_names), len(result.unusable.var_names)
        lines.append(
            f"without an observed value: {cells:,} cells, {genes:,} genes (filled with {result.unusable.fallback})"
        )
    place = f", layer {key!r}" if output.suffix.lower() in (".h5ad", ".zarr") else ""
    lines.append(f"wrote {n:,} x {n_genes:,} values on scale {run.scale} to {output}{place}")
    if run.outputs:
        lines.append(f"and beside them {', '.join(f'{key}_{name}' for name in run.outputs)}")
    return lines


def ending(run: Run) -> str:
    """How the fit ended, in a few words."""
    status = run.imputation.status
    text = status.message if status.converged else f"did not converge ({status.name})"
    return text or "no iteration needed"


def read_input(
    source: Path, outputs: Iterable[Path | None], genes_in: str | None, *, narrow: bool, quiet: bool
) -> AnnData:
    """The input; unless ``quiet``, what is to be said of it is.

    A table may be written from an input that is none, and ``genes_in`` then says how to write it. With ``narrow``,
    a table with missing values is read in float32, for its text is kept where nothing is missing.
    """
    import numpy as np

    from imputome.io.reading import read
    from imputome.io.tables import check_genes_in, read_table, table_suffix

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        if narrow and source.is_file():
            check_genes_in(genes_in)
            adata = read_table(source, genes_in=genes_in, dtype=np.float32)
        else:
            out = any(path is not None and table_suffix(path) is not None for path in outputs)
            adata = read(source, genes_in=None if out and table_suffix(source) is None else genes_in)
    for warning in said:
        if not quiet and warning.category is UserWarning:
            warning_line(str(warning.message))
    return adata


def numbers_as_names(adata: AnnData, source: Path, genes_in: str | None) -> str | None:
    """The warning that the first column of a table looks like values and was taken for names."""
    from imputome.io.tables import table_suffix

    if table_suffix(source) is None:
        return None
    names = adata.var_names if genes_in == "rows" else adata.obs_names
    if not all(_DECIMAL.fullmatch(name) for name in names):
        return None
    return (
        f"the first column of {source} ({', '.join(names[:3])}, ...) is taken for names and looks like values: if the "
        "table has no names, put a column of them in front"
    )


def gene_list(text: str) -> list[str]:
    """Names from ``A,B,C`` or from a file with one name a line."""
    from imputome.errors import InputError

    if "," not in text and len(text) < 255 and Path(text).exists():
        try:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()  # spreadsheets put a mark at the start
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the genes file {text} cannot be read as UTF-8 text: {error}") from error
        return [line.strip() for line in lines if line.strip()]
    names = split_names(text)
    if len(names) == 1 and ("/" in text or Path(text).suffix in (".txt", ".csv", ".tsv", ".list")):
        raise InputError(f"there is no genes file {text}")
    return names


def split_names(text: str | None) -> list[str]:
    """``A,B,C`` as a list."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``key=value`` pairs; values are read as Python literals, else taken as text."""
    import ast

    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not name:
            raise typer.BadParameter(f"{setting!r} is not of the form key=value", param_hint="--set")
        words = {"true": True, "false": False, "none": None}
        try:
            parsed[name] = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parsed[name] = text
    return parsed
