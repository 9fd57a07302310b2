"""What `impute` and `apply` share: where the result goes, checked before the work, and writing it there."""

from __future__ import annotations

import re
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from imputome.cli.beside import Beside, Table, write_beside
from imputome.cli.console import print_json, progress, warning_line
from imputome.cli.judging import say_judged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from anndata import AnnData

    from imputome.facade import Run
    from imputome.methods.base import Output

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
        from imputome.checking import brief
        from imputome.io.atomic import atomic_path

        if not self.quiet:
            for message in run.messages:
                warning_line(message)
        provenance = run.provenance()
        n, n_genes = self.adata.n_obs, self.adata.n_vars
        if self.genes is not None:
            provenance["genes"] = [str(name) for name in self.adata.var_names[self.genes]]
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
                    self._write_result(run, keep_observed, provenance, advance)
        if self.report is not None:
            with progress(f"writing {self.report.name}", quiet=self.quiet) as show:
                show(0.0, "")
                self._write_report(self.report, run, keep_observed, provenance)
        if as_json:
            summary = {"output": str(self.output), "key": self.key, "shape": [n, n_genes]}
            print_json({**summary, **self.beside.summary(), **(further or {}), **brief(provenance)})
        elif not self.quiet:
            for line in _summary(run, n, n_genes, self.output, self.key):
                typer.echo(line)
            for line in self.beside.lines(self.key):
                typer.echo(line)
            if self.report is not None:
                typer.echo(f"report: {self.report}")
            say_judged(run.further)

    def _write_report(self, path: Path, run: Run, keep_observed: bool | None, provenance: dict[str, Any]) -> None:
        from imputome.report.content import of_imputation
        from imputome.report.page import write_report

        content = of_imputation(
            run.imputation.data,
            run.imputation,
            record=provenance,
            key=self.key,
            scale=run.scale,
            labels=self.adata.obs,
            label=self.label,
            source=self.source.name,
            command=provenance.get("command", ""),
            genes=self.genes,
            keep_observed=keep_observed,
        )
        write_report(path, content, overwrite=self.force)

    def _write_result(
        self, run: Run, keep_observed: bool | None, provenance: dict[str, Any], advance: Callable[[int, int], object]
    ) -> None:
        import numpy as np

        from imputome.io.stream import write_result

        # these layers are the result's own too, to be removed with it
        provenance["outputs"] = np.array([*run.outputs, *self.beside.layers], dtype=str)
        write_result(
            self.output,
            self.adata,
            run.imputation,
            key=self.key,
            provenance=provenance,
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
    from imputome.facade import gene_positions
    from imputome.io.stream import check_space
    from imputome.io.tables import check_parquet_names

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
    from imputome.layers import check_free, checked_key

    checked_key(adata, key)
    if output.suffix.lower() in (".h5ad", ".zarr"):
        check_free(adata, key, beside, overwrite=overwrite)


def check_report(path: Path, adata: AnnData, label: str | None, *, overwrite: bool) -> None:
    """Refuse a report that cannot be written, before the work."""
    from imputome.report.content import chosen_label
    from imputome.report.page import check_installed, check_path

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

    from imputome.io.anndata import read
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
