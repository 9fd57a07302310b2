"""What `impute` and `apply` write beside the result: a table of standard deviations, and multiple imputations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from imputome.cli.console import print_json, warning_line

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.facade import Run
    from imputome.io.beside import Shown
    from imputome.methods.base import Imputer, Output

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
    from imputome.io.beside import draw_names, draw_path
    from imputome.io.stream import check_output
    from imputome.io.tables import table_suffix

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
    from imputome.layers import checked_outputs
    from imputome.methods import info, names

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
        from imputome.io.rewrite import keeps_text

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
        from imputome.io.rewrite import missing, rewrite
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
    from imputome.io.atomic import atomic_path
    from imputome.io.beside import Drawn, Spread

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

    from imputome.io.atomic import atomic_path
    from imputome.io.beside import Zeros
    from imputome.io.rewrite import copy_text, rewrite
    from imputome.io.tables import fill_table

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
