"""What a second table says of the samples (clinical columns), joined to ``obs`` by their names."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imputome.errors import InputError
from imputome.io.tables import own_separator, table_suffix
from imputome.io.text import open_text, separator_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True)
class Joined:
    """What came of a join.

    Attributes
    ----------
    columns : that ``obs`` got.
    without : samples of the matrix of which the table says nothing.
    unused : samples of the table that the matrix does not have.
    """

    columns: tuple[str, ...]
    without: tuple[str, ...]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        """What did not match, as sentences."""
        said = []
        if self.without:
            said.append(f"{len(self.without):,} samples have no row in the table of samples ({_some(self.without)})")
        if self.unused:
            said.append(f"{len(self.unused):,} rows of the table of samples match none here ({_some(self.unused)})")
        return said


def join_samples(adata: AnnData, path: str | Path, *, column: str | None = None) -> Joined:
    """Add the columns of the table ``path`` to ``adata.obs``; samples that it lacks get missing values.

    Parameters
    ----------
    column : of the table, with the names that ``obs_names`` has; None takes the first.

    Columns of text become categories, and a "/" in a name, which files of AnnData cannot hold, becomes "_".

    Raises
    ------
    InputError
        No such file or column; a sample twice on either side; no match at all; a name that ``obs`` has already.
    """
    import pandas as pd

    path = Path(path)
    table = _read(path, column)
    names = table.index
    for what, index in ((f"the table of samples {path}", names), ("the input", adata.obs_names)):
        if index.has_duplicates:
            twice = index[index.duplicated()][0]
            raise InputError(f"{what} has the sample {twice!r} more than once, so rows cannot be matched: keep one")
    known = adata.obs_names.isin(names)
    if not known.any():
        raise InputError(
            f"no sample of the input ({_some(tuple(adata.obs_names))}) is in column {names.name!r} of {path} "
            f"({_some(tuple(names))}): name the right column with --sample-id"
        )
    table.columns = [str(name).replace("/", "_") for name in table.columns]
    clash = [name for name in table.columns if name in adata.obs or list(table.columns).count(name) > 1]
    if clash:
        raise InputError(f"obs has a column {clash[0]!r} already: rename that of {path}")
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
        raise InputError(f"the table of samples {path} is no text table: end it in .csv, .tsv or .txt (also .gz)")
    if not path.is_file():
        raise InputError(f"the table of samples {path} does not exist")
    try:
        separator = separator_of(path, own_separator(suffix))
        with open_text(path) as handle, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # names that look like numbers, or like a missing value, stay as they are
            table = pd.read_csv(
                handle, sep=separator, index_col=False, converters={0 if column is None else column: str}
            )
    except pd.errors.ParserWarning as error:
        raise InputError(
            f"the header of the table of samples {path} has fewer fields than its lines (R writes such tables): give "
            "the first column a name too"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"the table of samples {path} cannot be read: {str(error).splitlines()[0]}") from error
    if column is not None and column not in table:
        raise InputError(f"{path} has no column {column!r}; columns: {', '.join(map(str, table.columns))}")
    table = table.set_index(table.columns[0] if column is None else column)
    table.index = table.index.str.strip()
    return table[table.index != ""]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
