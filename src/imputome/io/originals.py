"""Downloaded originals of the known data sets as AnnData: one reader for each form in which they are published.

What is only in a format of R is read from the text that two lines of R write (`imputome.datasets.DatasetInfo.in_r`).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError, some
from imputome.io.integrity import check_declared, check_memory, check_store
from imputome.io.reading import read
from imputome.io.text import is_number
from imputome.io.unpacking import is_hidden, read_tar, read_unpacked, read_zip

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_MATRIX = re.compile(r"(?P<prefix>(?:.*/)?(?:[^/]*_)?)matrix\.mtx(?:\.gz)?")
_ROLES = re.compile(r"(?:.*/)?(?:[^/]*_)?(?:matrix\.mtx|genes\.tsv|features\.tsv|barcodes\.tsv)(?:\.gz)?")


# -- 10x ---------------------------------------------------------------------------------------------------------------
def ten_x(files: Sequence[Path]) -> AnnData:
    """Counts of a 10x archive (``.tar.gz``), or of the folder that it unpacks to; names of genes are made unique."""
    (path,) = only(files, 1, "the archive, or the folder that it unpacks to")
    adata = read(_folder_of_matrix(path)) if path.is_dir() else _ten_x_tar(path)
    adata.var_names_make_unique()
    return adata


def _folder_of_matrix(path: Path) -> Path:
    """The folder with the matrix: ``path``, or the only such folder in it (``filtered_gene_bc_matrices/hg19``)."""
    if any(_MATRIX.fullmatch(entry.name) for entry in path.iterdir()):
        return path
    found = {entry.parent for pattern in ("*/*", "*/*/*") for entry in path.glob(pattern) if _is_matrix(entry)}
    return found.pop() if len(found) == 1 else path


def _is_matrix(path: Path) -> bool:
    return path.is_file() and _MATRIX.fullmatch(path.name) is not None


def _ten_x_tar(path: Path) -> AnnData:
    import pandas as pd
    from anndata import AnnData

    members = read_tar(path, lambda name: not is_hidden(name) and _ROLES.fullmatch(name) is not None)
    matrices = [name for name in members if _MATRIX.fullmatch(name)]
    if len(matrices) != 1:
        text = f"{path} holds {len(matrices) or 'no'} matrices (matrix.mtx): give a 10x archive of one sample"
        raise InputError(text, code="not-a-10x-archive")
    match = _MATRIX.fullmatch(matrices[0])
    prefix = match["prefix"] if match else ""
    genes = _tsv(members, path, f"{prefix}features.tsv", f"{prefix}genes.tsv")
    cells = _tsv(members, path, f"{prefix}barcodes.tsv")
    X = _mtx(members[matrices[0]], path, (len(genes), len(cells)))
    var = pd.DataFrame(
        {"gene_ids": [row[0] for row in genes]},
        index=pd.Index([row[min(1, len(row) - 1)] for row in genes], dtype=object),
    )
    return AnnData(X, obs=pd.DataFrame(index=pd.Index([row[0] for row in cells], dtype=object)), var=var)


def _tsv(members: dict[str, bytes], path: Path, *names: str) -> list[list[str]]:
    found = [members[name + packed] for name in names for packed in ("", ".gz") if name + packed in members]
    if not found:
        wanted = " or ".join(PurePosixPath(name).name for name in names)
        raise InputError(f"{path} has a matrix without {wanted}: download it again", code="incomplete-10x-archive")
    return [line.split("\t") for line in _text(found[0], path).splitlines() if line]


def _mtx(content: bytes, path: Path, shape: tuple[int, int]) -> Any:
    """The matrix of genes x cells in Matrix Market format as CSR of cells x genes."""
    import scipy.io
    import scipy.sparse as sp

    try:
        rows, columns, entries, layout, _, _ = scipy.io.mminfo(io.BytesIO(content))
        if (rows, columns) != shape:
            text = (
                f"the matrix in {path} is {rows} x {columns}, and its names are {shape[0]} x {shape[1]}: download it "
            )
            raise InputError(f"{text}again", code="inconsistent-10x-archive")
        # an entry has at least a digit and an end, and in a sparse matrix a position before
        check_declared(path, "its matrix", entries * (2 if layout == "array" else 3), len(content))
        check_memory(path, entries * 16)
        return sp.csr_matrix(sp.coo_matrix(scipy.io.mmread(io.BytesIO(content))).T, dtype=np.float32)
    except InputError:
        raise
    except Exception as error:  # each version of SciPy has other errors for a damaged matrix
        text = f"the matrix in {path} cannot be read ({str(error).splitlines()[0] if str(error) else 'damaged'})"
        raise InputError(f"{text}: download it again", code="damaged") from error


# -- HDF5 and AnnData --------------------------------------------------------------------------------------------------
def matrix_and_clusters(files: Sequence[Path]) -> AnnData:
    """An ``.h5`` with ``X``, cells x genes, and ``Y``, a cluster for each cell, as scDCC and scDeepCluster publish."""
    import h5py
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

    (path,) = only(files, 1, "the .h5 file")
    try:
        with h5py.File(path, "r") as root:
            check_store(root, path)
            parts = {name: root[name] for name in ("X", "Y") if isinstance(root.get(name), h5py.Dataset)}
            shapes = {name: part.shape for name, part in parts.items()}
            if [len(shapes.get("X", ())), len(shapes.get("Y", ()))] != [2, 1] or shapes["X"][0] != shapes["Y"][0]:
                text = f"{path} has no matrix X of cells x genes with a cluster Y for each cell (but {some(root)}): "
                raise InputError(f"{text}download the file that `imputome datasets` names", code="unknown-layout")
            X, Y = sp.csr_matrix(parts["X"][()], dtype=np.float32), np.asarray(parts["Y"][()])
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: download it first", code="no-file") from error
    except OSError as error:
        raise InputError(f"{path} is damaged or no HDF5 file: download it again", code="damaged") from error
    names = [str(int(label)) if np.asarray(label).dtype.kind in "iuf" else _label(label) for label in Y]
    obs = pd.DataFrame({"cluster": pd.Categorical(names)}, index=numbered("cell", len(names)))
    return AnnData(X, obs=obs, var=pd.DataFrame(index=numbered("gene", X.shape[1])))


def _label(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def citeseq(files: Sequence[Path]) -> AnnData:
    """The genes and proteins that both experiments, 5k and 10k, have, in the order of the first."""
    import anndata
    import pandas as pd

    first, second = (read(path) for path in by_word(files, ("5k", "10k")))
    parts: list[AnnData] = []
    proteins = [protein for protein in _proteins(first) if protein in set(_proteins(second))]
    genes = first.var_names[first.var_names.isin(second.var_names)]
    for label, part in (("5k", first), ("10k", second)):
        if not part.var_names.is_unique:
            raise InputError(f"names of genes repeat in the file of {label}: download it again", code="repeated-names")
        table = pd.DataFrame(np.asarray(part.obsm["protein_expression"]), columns=_proteins(part))
        part = part[:, genes].copy()
        part.obs = pd.DataFrame({"batch": f"pbmc{label}"}, index=[f"{label}_{cell}" for cell in part.obs_names])
        part.obsm = {"protein_counts": table[proteins].to_numpy(dtype=np.float32)}
        part.var, part.uns, part.layers = pd.DataFrame(index=genes), {}, {}
        parts.append(part)
    joined = anndata.concat(parts)
    joined.obs["batch"] = pd.Categorical(joined.obs["batch"])
    joined.uns["protein_names"] = np.array(proteins, dtype=object)
    return joined


def _proteins(adata: AnnData) -> list[str]:
    table = adata.obsm.get("protein_expression")
    names = getattr(table, "columns", adata.uns.get("protein_names"))
    if table is None or names is None or len(names) != table.shape[1]:
        text = "a file has no proteins (obsm protein_expression with uns protein_names): give those of scvi-tools"
        raise InputError(text, code="unknown-layout")
    return [str(name) for name in names]


# -- text of genes x cells ---------------------------------------------------------------------------------------------
def days(files: Sequence[Path]) -> AnnData:
    """Tables of genes x cells without names of cells, one for each day, which is in the name of its file."""
    adata = _joined(files, ("d2", "d4"), "day", number=True)
    adata.obs["cell_type"] = adata.obs["day"]
    return adata


def conditions(files: Sequence[Path]) -> AnnData:
    """Tables of genes x cells, one for each condition, which is in the name of its file."""
    return _joined(files, ("ctrl", "stim"), "condition", number=False)


def _joined(files: Sequence[Path], words: tuple[str, ...], column: str, *, number: bool) -> AnnData:
    import anndata
    import pandas as pd

    parts: list[AnnData] = []
    for word, path in zip(words, by_word(files, words), strict=True):
        part = genes_by_cells(path)
        names = [str(k) for k in range(part.n_obs)] if number else list(part.obs_names)
        part.obs = pd.DataFrame({column: word}, index=[f"{word}_{name}" for name in names])
        if parts and list(part.var_names) != list(parts[0].var_names):
            raise InputError(
                f"{path} has other genes than {files[0]}: take files of one experiment", code="other-genes"
            )
        parts.append(part)
    joined = anndata.concat(parts)
    joined.obs[column] = pd.Categorical(joined.obs[column])
    return joined


def counts_table(files: Sequence[Path]) -> AnnData:
    """One table of counts of genes x cells."""
    (path,) = only(files, 1, "one table of counts")
    return genes_by_cells(path)


def counts_and_spikes(files: Sequence[Path]) -> AnnData:
    """A table of counts, and one of spikes with a column ``true_molecules``, both with cells in the columns."""
    spikes = [path for path in files if "ercc" in path.name.lower()]
    (path,) = only([path for path in files if path not in spikes], 1, "one table of counts")
    adata = genes_by_cells(path)
    for path in spikes:
        table = genes_by_cells(path, counts=False)
        place = {name: k for k, name in enumerate(table.obs_names)}
        if "true_molecules" not in place or not set(adata.obs_names) <= set(place):
            text = f"{path} needs a column true_molecules, and one for each cell: write it with the lines of R that "
            raise InputError(f"{text}`imputome datasets` prints", code="unknown-layout")
        X = table.X.toarray()
        adata.obsm["ercc_counts"] = X[[place[name] for name in adata.obs_names]]
        adata.uns["ercc_true_molecules"] = X[place["true_molecules"]].astype(float)
        adata.uns["ercc_names"] = np.array(table.var_names, dtype=object)
    return adata


def genes_by_cells(path: Path, *, counts: bool = True) -> AnnData:
    """A table with commas, a gene in each row; its first line holds the names of the cells, or is a gene too.

    R writes the names of cells with or without a field above those of the genes. Cells without names are numbered.
    """
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

    content = read_unpacked(path)
    first, second = (_fields(line, path) for line in [*content.split(b"\n", 2), b""][:2])
    header = len(first) > 1 and not all(is_number(text) for text in first[1:])
    cells = first[1:] if len(first) == len(second) else first
    if not header:
        cells = list(numbered("cell", len(first) - 1))
    if not cells or (header and len(cells) != len(second) - 1):
        text = f"{path} is no table of genes x cells with commas: download the file that `imputome datasets` names"
        raise InputError(text, code="unknown-layout")
    frame = read_frame(content, path, header=None, skiprows=1 if header else 0, named=True)
    values = numeric(frame, path)
    if counts:
        check_counts(values, path)
    names = pd.Index([str(name) for name in frame.index], dtype=object)
    if not names.is_unique:
        text = f"names of genes repeat in {path}, as {names[names.duplicated()][0]}: download it again"
        raise InputError(text, code="repeated-names")
    return AnnData(
        sp.csr_matrix(values.T), obs=pd.DataFrame(index=pd.Index(cells, dtype=object)), var=pd.DataFrame(index=names)
    )


# -- text of samples x features ----------------------------------------------------------------------------------------
def autoclass(files: Sequence[Path]) -> AnnData:
    """A table of cells x genes whose last two columns are the cell type and the donor, in a zip or not."""
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

    path, content = _zipped_csv(files)
    frame = read_frame(content, path, named=True)
    if frame.shape[1] < 3 or pd.api.types.is_numeric_dtype(frame.dtypes.iloc[-2]):
        text = f"{path} does not end in a column of cell types and one of donors: download the file that "
        raise InputError(f"{text}`imputome datasets` names", code="unknown-layout")
    values = numeric(frame.iloc[:, :-2], path)
    check_counts(values, path)
    labels = {name: pd.Categorical(frame.iloc[:, k].astype(str)) for name, k in (("cell_type", -2), ("sample", -1))}
    var = pd.DataFrame(index=pd.Index(list(map(str, frame.columns[:-2])), dtype=object))
    return AnnData(sp.csr_matrix(values), obs=pd.DataFrame(labels, index=numbered("cell", len(frame))), var=var)


def porpoise(files: Sequence[Path]) -> AnnData:
    """RNA-seq z-scores and survival of patients: the columns ``*_rnaseq``, a row for each ``case_id``, sorted by it.

    Patients without all values are left out.
    """
    import pandas as pd
    from anndata import AnnData

    path, content = _zipped_csv(files)
    frame = read_frame(content, path)
    genes = [name for name in frame.columns if name.endswith("_rnaseq")]
    clinical = [
        name for name in ("age", "is_female", "oncotree_code", "survival_months", "censorship") if name in frame
    ]
    if not genes or not {"case_id", "survival_months", "censorship"} <= set(frame.columns):
        text = f"{path} has no columns case_id, survival_months, censorship and *_rnaseq: download the file that "
        raise InputError(f"{text}`imputome datasets` names", code="unknown-layout")
    frame = frame.drop_duplicates("case_id").dropna(subset=genes).sort_values("case_id")
    obs = frame[clinical].set_axis(pd.Index(frame["case_id"].astype(str), name="case_id", dtype=object))
    if "oncotree_code" in obs:
        obs["oncotree_code"] = pd.Categorical(obs["oncotree_code"].astype(str))
    obs["dead"] = 1.0 - obs["censorship"].astype(float)
    var = pd.DataFrame(index=pd.Index([name.removesuffix("_rnaseq") for name in genes], dtype=object))
    return AnnData(numeric(frame[genes], path), obs=obs, var=var)


def training_data(files: Sequence[Path]) -> AnnData:
    """The training data of a model of R's caret: a row for each sample, and its class in ``.outcome``."""
    import pandas as pd
    from anndata import AnnData

    (path,) = only(files, 1, "the table that R wrote")
    frame = read_frame(read_unpacked(path), path, named=True)
    if ".outcome" not in frame:
        text = f"{path} has no column .outcome: write it with the lines of R that `imputome datasets` prints"
        raise InputError(text, code="unknown-layout")
    frame.index = pd.Index([str(name).replace(".", "-") for name in frame.index], dtype=object)
    frame = frame.sort_index()
    obs = pd.DataFrame({"class": pd.Categorical(frame[".outcome"].astype(str))}, index=frame.index)
    features = frame.drop(columns=".outcome")
    return AnnData(numeric(features, path), obs=obs, var=pd.DataFrame(index=features.columns.astype(object)))


def coverage_table(files: Sequence[Path]) -> pd.DataFrame:
    """Sites x columns ``pos``, ``M.*`` and ``Cov.*``: methylated and all reads of each sample, whole numbers."""
    (path,) = only(files, 1, "the table that R wrote")
    frame = read_frame(read_unpacked(path), path)
    M, Cov = ([name for name in frame.columns if name.startswith(start)] for start in ("M.", "Cov."))
    if list(frame.columns) != ["pos", *M, *Cov] or [name[2:] for name in M] != [name[4:] for name in Cov] or not M:
        text = f"{path} has not the columns pos, M.*, Cov.* of the same samples: write it with the lines of R that "
        raise InputError(f"{text}`imputome datasets` prints", code="unknown-layout")
    check_counts(numeric(frame, path), path)
    return frame.astype("int32")


def _zipped_csv(files: Sequence[Path]) -> tuple[Path, bytes]:
    (path,) = only(files, 1, "the .zip, or the .csv that is in it")
    if path.suffix.lower() != ".zip":
        return path, read_unpacked(path)
    members = read_zip(path, lambda name: name.lower().endswith(".csv") and not is_hidden(name))
    if len(members) != 1:
        text = f"{path} holds {len(members) or 'no'} tables (.csv): download the file that `imputome datasets` names"
        raise InputError(text, code="unknown-layout")
    return path, next(iter(members.values()))


# -- parts of the readers ----------------------------------------------------------------------------------------------
def only(files: Sequence[Path], number: int, what: str) -> Sequence[Path]:
    """The files, if there are as many as there should be."""
    if len(files) != number:
        raise InputError(f"{len(files)} files are given where {what} is needed: give that", code="number-of-files")
    return files


def by_word(files: Sequence[Path], words: tuple[str, ...]) -> list[Path]:
    """The files by the words in their names, ``_d2_`` or ``pbmc_5k``, in the order of ``words``."""
    found = []
    for word in words:
        named = [path for path in files if re.search(rf"(?<![a-z0-9]){word}(?![a-z0-9])", path.name.lower())]
        if len(named) != 1:
            text = f"{len(named) or 'no'} files have {word} in their names: give one each of {', '.join(words)}"
            raise InputError(text, code="number-of-files")
        found += named
    if len(files) != len(found):
        other = next(path for path in files if path not in found)
        text = f"{other} is none of {', '.join(words)}, by its name: leave it out"
        raise InputError(text, code="number-of-files")
    return found


def numbered(what: str, n: int) -> Any:
    """Names ``cell_0``, ``cell_1`` and so on."""
    import pandas as pd

    return pd.Index([f"{what}_{k}" for k in range(n)], dtype=object)


def read_frame(content: bytes, path: Path, *, named: bool = False, **options: Any) -> pd.DataFrame:
    """A table with commas; ``named`` rows have their names in the first column.

    Names are text, also where they look like numbers or like a missing value.
    """
    import pandas as pd

    try:
        if not named:
            return pd.read_csv(io.BytesIO(content), low_memory=False, **options)
        frame = pd.read_csv(io.BytesIO(content), low_memory=False, converters={0: str}, index_col=False, **options)
        return frame.set_index(frame.columns[0])
    except (ValueError, pd.errors.ParserError, UnicodeDecodeError) as error:  # an empty text is a ValueError too
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"{path} cannot be read as a table ({reason}): download it again", code="unreadable"
        ) from error


def text_rows(content: bytes, path: Path) -> list[list[str]]:
    """The rows of a small table with commas, the header first; R may write it without a field above the names."""
    try:
        rows = [row for row in csv.reader(io.StringIO(_text(content, path), newline="")) if row]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table ({error}): download it again", code="unreadable") from error
    if len(rows) > 1 and len(rows[0]) == len(rows[1]) - 1:
        rows[0].insert(0, "")
    if any(len(row) != len(rows[0]) for row in rows):
        text = f"{path} is no table with commas, its rows have different numbers of fields: download it again"
        raise InputError(text, code="unreadable")
    return rows


def numeric(frame: pd.DataFrame, path: Path) -> np.ndarray:
    """The numbers of a table as float32."""
    try:
        return frame.to_numpy(dtype=np.float32)
    except (ValueError, TypeError) as error:
        text = f"{path} holds text among its numbers: download it again, or give another file"
        raise InputError(text, code="not-numbers") from error


def check_counts(values: np.ndarray, path: Path) -> None:
    """Refuse numbers that are no counts."""
    wrong = ~(np.isfinite(values) & (values >= 0) & (values == np.rint(values)))
    if wrong.any():
        text = f"{path} holds {values[wrong][0]:g}, which is no count: give the file of raw counts"
        raise InputError(text, code="not-counts")


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} holds names that are not UTF-8: download it again", code="damaged") from error


def _fields(line: bytes, path: Path) -> list[str]:
    return next(csv.reader([_text(line.rstrip(b"\r"), path)]), []) if len(line) < 2**24 else []


Reader = Callable[[Sequence[Path]], "AnnData | pd.DataFrame"]
READERS: dict[str, Reader] = {
    "pbmc3k_raw": ten_x,
    "pbmc4k_top2000": matrix_and_clusters,
    "mouse_bladder_2100": matrix_and_clusters,
    "baron_pancreas_7162x1000": autoclass,
    "klein_d2_d4": days,
    "kang_pbmc_stim": conditions,
    "scmix_celseq2_3cl": counts_table,
    "pbmc_citeseq_400": citeseq,
    "zeisel_ercc_1000g": counts_and_spikes,
    "tcga_gbmlgg_zscore_1544g": porpoise,
    "tcga_glioma_meth_880x1205": training_data,
    "wgbs_chr21_M_Cov": coverage_table,
}
