"""A second table with columns about the samples (clinical data), joined to ``obs`` by their names."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imputome.errors import InputError, Message, some
from imputome.io.table_layout import whole_names
from imputome.io.tables import suffix_separator, table_suffix
from imputome.io.text import comment_lines, open_text, separator_of, skip_lines

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True)
class Joined:
    """The result of a join."""

    columns: tuple[str, ...]  # added to obs
    without: tuple[str, ...]  # samples of the matrix that are not in the table
    unused: tuple[str, ...]  # samples of the table that are not in the matrix

    def messages(self) -> list[Message]:
        """What did not match."""
        cases = (
            (self.without, "samples have no row in the table of samples", "samples-without-row"),
            (self.unused, "rows of the table of samples match no sample", "rows-without-sample"),
        )
        return [Message(f"{len(names):,} {text} ({some(names, 3)})", code=code) for names, text, code in cases if names]


def join_samples(adata: AnnData, path: str | Path, *, column: str | None = None) -> Joined:
    """Add the columns of the text table ``path`` to ``adata.obs``; samples that are not in it get missing values.

    ``column`` of the table has the names of ``obs_names``; by default it is the first. Columns of text become
    categorical. A "/" in a name becomes "_", because AnnData files cannot hold it.
    """
    import pandas as pd

    path = Path(path)
    table = _read(path, column)
    names = table.index
    for what, index in ((f"the table of samples {path}", names), ("the input", adata.obs_names)):
        if index.has_duplicates:
            twice = index[index.duplicated()][0]
            text = f"{what} has the sample {twice!r} more than once, so rows cannot be matched: keep one"
            raise InputError(text, code="samples-not-unique", parameter="samples")
    known = adata.obs_names.isin(names)
    if not known.any():
        text = (
            f"no sample of the input ({some(adata.obs_names, 3)}) is in column {names.name!r} of {path} "
            f"({some(names, 3)}): pass the right column as {{sample_id}}"
        )
        raise InputError(text, code="no-sample-matches", sample_id=...)
    table.columns = [str(name).replace("/", "_") for name in table.columns]
    clash = [name for name in table.columns if name in adata.obs or list(table.columns).count(name) > 1]
    if clash:
        raise InputError(f"obs has a column {clash[0]!r} already: rename that of {path}", code="obs-column-exists")
    matched = table.reindex(adata.obs_names)
    for name in matched.columns:
        values = matched[name]
        if values.dtype.kind not in "iuf" and not pd.api.types.is_bool_dtype(values.dtype):
            values = values.where(values.isna(), values.astype(str)).astype("category")
        adata.obs[name] = values
    return Joined(tuple(matched.columns), tuple(adata.obs_names[~known]), tuple(names[~names.isin(adata.obs_names)]))


def _read(path: Path, column: str | None) -> pd.DataFrame:
    """The table, indexed by the names of its samples as text."""
    import pandas as pd

    suffix = table_suffix(path)
    if suffix is None or suffix == ".parquet":
        text = f"the table of samples {path} is not a text table: end it in .csv, .tsv or .txt (also .gz)"
        raise InputError(text, code="not-a-table", parameter="samples")
    if not path.is_file():
        raise InputError(f"the table of samples {path} does not exist", code="no-file", parameter="samples")
    try:
        separator = separator_of(path, suffix_separator(suffix))
        with open_text(path) as handle, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            skip_lines(handle, comment_lines(path, separator))
            # names that look like numbers, or like a missing value, stay as they are
            name = 0 if column is None else column
            table = pd.read_csv(handle, sep=separator, index_col=False, converters={name: str})
    except pd.errors.ParserWarning as error:
        text = f"the header of {path} has fewer fields than its lines (R writes this): name the first column too"
        raise InputError(text, code="header-too-short") from error
    except (OSError, ValueError, EOFError) as error:
        text = f"the table of samples {path} cannot be read: {str(error).splitlines()[0]}"
        raise InputError(text, code="unreadable") from error
    if column is not None and column not in table:
        text = f"{path} has no column {column!r}; columns: {', '.join(map(str, table.columns))}"
        raise InputError(text, code="no-column", parameter="sample_id")
    table = table.set_index(table.columns[0] if column is None else column)
    table.index = pd.Index(whole_names(table.index.str.strip().tolist()), name=table.index.name, dtype=object)
    return table[table.index != ""]
