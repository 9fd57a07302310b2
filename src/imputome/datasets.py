"""Public data sets: one that comes with scanpy, and others that are read from a folder.

Nothing is downloaded. `load` looks in the folder named by the environment variable ``IMPUTOME_DATA``, then in the
user's cache folder. If the file is in neither, the error says where the original is; `imputome.io.conversion.convert`
makes the file from it, and `checksum` tells whether it has the values that our results were made with.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.caches import replaced, use_writable_caches
from imputome.errors import ImputomeError, InputError, Message, missing_extra

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["DatasetInfo", "available", "checksum", "info", "load", "names", "pbmc68k"]

# sha256 of the recovered counts of pbmc68k: indptr as int64, indices as int32, data as float32, all little-endian
PBMC68K_SHA256 = "96833bfc9cc2258896f21115942f89b7672cc7b9146abcb035756410aa21cc70"


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is and where its public original is.

    Attributes
    ----------
    name, what : str
        Stem of its file; one line on what it is.
    source, original, files : str
        Package or repository that it is from; where else the measurements are; the files that
        `imputome.io.conversion.convert` takes.
    licence : str
        Licence of the packaging, as the source states it; the measurements are public.
    shape, labels : str
        Cells x genes; columns of ``obs`` (or other slots) that hold a known truth.
    in_r : tuple of str
        Lines of R that write the files, where the original is in R's own format.
    sha256 : str
        Of the values that our results were made with, see `checksum`.

    Examples
    --------
    >>> import imputome
    >>> imputome.datasets.info("zeisel").shape
    '1464 x 1000'
    """

    name: str  # stem of its file
    what: str  # one line
    source: str  # package or repository, and the path in it
    licence: str  # of the packaging, as the source states it; the measurements are public
    shape: str  # cells x genes
    labels: str  # columns of ``obs`` (or other slots) that hold a known truth
    suffix: str = ".h5ad"  # of its file
    original: str = ""  # where else the measurements are, and the names of their files
    files: str = ""  # the originals that `imputome datasets convert` takes, in the order of the command line
    in_r: tuple[str, ...] = ()  # lines of R that write these files, where the original is R's own format
    sha256: str = ""  # of the values that our results were made with: see `checksum`


# one row each: name, what, source, licence, shape, labels; then by name what the others need to be made again
# fmt: off
DATASETS: tuple[DatasetInfo, ...] = (
    DatasetInfo("pbmc68k", "10x PBMC 68k, 700 cells and 765 variable genes, counts recovered",
                "scanpy: datasets/10x_pbmc68k_reduced.h5ad", "BSD-3-Clause", "700 x 765", "cell_type (10)",
                sha256="1959fba62bea798450703b5f3542c6ba87d18c86af5630770e531c47cbf0e7e3"),
    DatasetInfo("pbmc3k_raw", "10x PBMC 3k, all genes",
                "PyPI sdist desc 0.1.4.1: desc/datasets/pbmc.h5ad; labels: github.com/chanzuckerberg/cellxgene",
                "MIT", "2700 x 32738", "cell_type (8 and 'unassigned')",
                original="10x Genomics, 3k PBMCs from a Healthy Donor: pbmc3k_filtered_gene_bc_matrices.tar.gz (hg19); "
                         "pbmc.h5ad of desc can be converted too",
                files="pbmc3k_filtered_gene_bc_matrices.tar.gz [labels.csv]",
                sha256="8e9d58a31e29c9240b754c7c72f5d4383c5b86687e7fe630d4fa978f0e091436"),
    DatasetInfo("pbmc4k_top2000", "10x PBMC 4k, 2000 chosen genes without names",
                "github.com/ttgump/scDCC: data/Small_Datasets/10X_PBMC_top2000.h5", "Apache-2.0", "4271 x 2000",
                "cluster (8)",
                original="the experiment is PBMC 4k of 10x Genomics; the choice of genes is in this file only",
                files="10X_PBMC_top2000.h5",
                sha256="ab92ef0a5c170d2e4e559405e9f7f8bd48ed7ac4dbd169751b077243d6598391"),
    DatasetInfo("mouse_bladder_2100", "mouse bladder, Microwell-seq (Mouse Cell Atlas, Han 2018), genes without names",
                "github.com/ttgump/scDeepCluster: scRNA-seq data/mouse_bladder_cell_select_2100.h5", "Apache-2.0",
                "2100 x 20670", "cluster (16)",
                original="the experiment is the Mouse Cell Atlas; the choice of cells is in this file only",
                files="mouse_bladder_cell_select_2100.h5",
                sha256="f7fa04271b576cab565c238ef0bf74d4d41aa1fcb1912485a8529c7312296b32"),
    DatasetInfo("baron_pancreas_7162x1000", "human pancreas, inDrop (Baron 2016, GSE84133), 1000 chosen genes",
                "github.com/datapplab/AutoClass: datasets/Baron.zip", "GPL-3", "7162 x 1000",
                "cell_type (9), sample (3 donors)",
                original="all genes are GEO GSE84133; the choice of cells and genes is in this file only",
                files="Baron.zip",
                sha256="32b0921976f446899e61c821b33008984803926f66618775b9aa6f83640e4872"),
    DatasetInfo("klein_d2_d4", "mouse embryonic stem cells, inDrop, days 2 and 4 (Klein 2015, GSE65525)",
                "github.com/lxh07/scIALM: inexact_alm/preprocess/data/Klein/*.csv.bz2", "none stated", "986 x 24175",
                "day (2)",
                original="GEO GSE65525: GSM1599497_ES_d2_LIFminus.csv.bz2, GSM1599498_ES_d4_LIFminus.csv.bz2",
                files="GSM1599497_ES_d2_LIFminus.csv.bz2 GSM1599498_ES_d4_LIFminus.csv.bz2",
                sha256="1889aa7c52c4deffb71bc7640f8d34a5391c76b3f0649f455b853de153683296"),
    DatasetInfo("kang_pbmc_stim", "10x PBMC, control and interferon-beta (Kang 2018, GSE96583)",
                "github.com/immunogenomics/harmony: data/pbmc_stim.RData", "GPL-3", "2000 x 9015", "condition (2)",
                original="all cells are GEO GSE96583; the choice of cells is in this file only",
                files="kang_ctrl.csv kang_stim.csv",
                in_r=('load("pbmc_stim.RData"); write.csv(as.matrix(pbmc.ctrl), "kang_ctrl.csv")',
                      'write.csv(as.matrix(pbmc.stim), "kang_stim.csv")'),
                sha256="c45dbfc4255d40d8acebf8992c1a1f8a39e0416252bf9b29824226c2047874a6"),
    DatasetInfo("scmix_celseq2_3cl", "sc_mixology, 3 cell lines by genotype, CEL-seq2 with ERCC",
                "github.com/LuyiTian/sc_mixology: data/csv/sc_celseq2.*", "MIT", "274 x 28204", "cell_type (3)",
                original="GEO GSE117617 is the experiment; the files are sc_celseq2.count.csv.gz and "
                         "sc_celseq2.metadata.csv.gz of the repository",
                files="sc_celseq2.count.csv.gz sc_celseq2.metadata.csv.gz",
                sha256="38e939d5f5110f95a0fc05c50161b970411c4d80de80db8eef444ec9330a9958"),
    DatasetInfo("pbmc_citeseq_400", "10x PBMC 5k and 10k with 14 surface proteins, 200 cells each",
                "github.com/scverse/scvi-tools: tests/test_data/pbmc_{5k,10k}_protein_v3.h5ad", "BSD-3-Clause",
                "400 x 15792", "batch (2), obsm protein_counts",
                original="all cells are of 10x Genomics (5k and 10k PBMCs, protein v3); the 400 are the test files of "
                         "scvi-tools",
                files="pbmc_5k_protein_v3.h5ad pbmc_10k_protein_v3.h5ad",
                sha256="2745d20a900df626ac6f179f8689df3c3bb8fb63c347196ae67d0dda07022356"),
    DatasetInfo("zeisel_ercc_1000g", "mouse cortex, STRT-seq with ERCC (Zeisel 2015, GSE60361), 1000 chosen genes",
                "github.com/jingshuw/descend: data/zeisel.rda", "GPL (>= 2)", "1464 x 1000",
                "cell_type (3), obsm ercc_counts",
                original="all genes are GEO GSE60361; the choice of cells and genes is in this file only",
                files="zeisel_counts.csv zeisel_metadata.csv zeisel_ercc.csv",
                in_r=('load("zeisel.rda"); z <- zeisel; write.csv(z$count.matrix.large, "zeisel_counts.csv"); '
                      'write.csv(cbind(true_molecules = z$trueMol, z$ercc.matrix), "zeisel_ercc.csv")',
                      'write.csv(data.frame(cell_type = z$labels, library_size_all_genes = z$library.size, '
                      'row.names = colnames(z$count.matrix.large)), "zeisel_metadata.csv")'),
                sha256="6db70a120a22facd63924131e71348004c2d0cfcf37b16a200ebc59ceca19597"),
    DatasetInfo("tcga_gbmlgg_zscore_1544g", "TCGA glioma RNA-seq, cBioPortal z-scores, with survival",
                "github.com/mahmoodlab/PORPOISE: datasets_csv_mutsig/tcga_gbmlgg_all_clean.csv.zip", "GPL-3",
                "569 x 1544", "survival_months, dead, ceccarelli_grade",
                original="cBioPortal has the values of all genes; the grades are TCGAbiolinks lgg.gbm.subtype (Debian "
                         "r-bioc-tcgabiolinks 2.25.3)",
                files="tcga_gbmlgg_all_clean.csv.zip [metadata.csv]",
                sha256="4901b05b31a0bd0ae7def8f7522eabbb101392ba21f33aa4e99a09bc77b05d83"),
    DatasetInfo("tcga_glioma_meth_880x1205", "TCGA glioma methylation, beta values (Ceccarelli 2016), with survival",
                "Debian r-bioc-tcgabiolinksgui.data 1.18.0: glioma.idh.model", "GPL-3+", "880 x 1205",
                "class (6), survival_months, dead, grade",
                original="Bioconductor TCGAbiolinksGUI.data has it too; the clinical columns are TCGAbiolinks "
                         "lgg.gbm.subtype",
                files="glioma_meth.csv [metadata.csv]",
                in_r=('data("glioma.idh.model", package = "TCGAbiolinksGUI.data")',
                      'write.csv(glioma.idh.model$trainingData, "glioma_meth.csv")'),
                sha256="4c175a0b4ccc4340de090cc1eae6deab6129b0ae73e4a3babc005e63b22486c6"),
    DatasetInfo("wgbs_chr21_M_Cov", "bisulfite sequencing of chromosome 21 with coverage, one row a CpG",
                "github.com/kdkorthauer/dmrseq: data/BS.chr21.rda", "MIT", "300684 x 4", "columns pos, M.*, Cov.*",
                ".parquet",
                original="Bioconductor dmrseq has it too",
                files="wgbs_chr21.csv",
                in_r=('library(bsseq); load("BS.chr21.rda"); b <- BS.chr21; t <- data.frame(pos = start(b), '
                      'M = as.matrix(getCoverage(b, type = "M")), Cov = as.matrix(getCoverage(b)))',
                      'write.csv(t, "wgbs_chr21.csv", row.names = FALSE)'),
                sha256="3285adbe31936ebbd14f8618d3340b35127f31ddbb3f0c771bd0e46f13ad4b88"),
)
# fmt: on

ALIASES = {
    "pbmc3k": "pbmc3k_raw",
    "pbmc4k": "pbmc4k_top2000",
    "bladder": "mouse_bladder_2100",
    "baron": "baron_pancreas_7162x1000",
    "klein": "klein_d2_d4",
    "kang": "kang_pbmc_stim",
    "scmix": "scmix_celseq2_3cl",
    "citeseq": "pbmc_citeseq_400",
    "zeisel": "zeisel_ercc_1000g",
    "tcga_expression": "tcga_gbmlgg_zscore_1544g",
    "tcga_methylation": "tcga_glioma_meth_880x1205",
    "wgbs": "wgbs_chr21_M_Cov",
}


def names() -> list[str]:
    """Names of the data sets, without the short names that `load` also takes.

    Returns
    -------
    list of str
        The names.

    Examples
    --------
    >>> import imputome
    >>> "pbmc68k" in imputome.datasets.names()
    True
    """
    return [entry.name for entry in DATASETS]


def available() -> list[tuple[DatasetInfo, Path | None]]:
    """All known data sets, each with its file on this machine.

    Returns
    -------
    list of (DatasetInfo, Path or None)
        None where there is no file.

    Examples
    --------
    >>> import imputome
    >>> [info.name for info, path in imputome.datasets.available() if path is not None][0]
    'pbmc68k'
    """
    return [(entry, _find(entry)) for entry in DATASETS]


def info(name: str) -> DatasetInfo:
    """The entry of a data set.

    Parameters
    ----------
    name : str
        One of `names`, or its short name.

    Returns
    -------
    DatasetInfo
        What it is, and where from.

    Raises
    ------
    InputError
        There is no such data set.

    Examples
    --------
    >>> import imputome
    >>> imputome.datasets.info("pbmc3k").name
    'pbmc3k_raw'
    """
    full_name = ALIASES.get(name, name)
    entry = next((entry for entry in DATASETS if entry.name == full_name), None)
    if entry is None:
        text = f"there is no dataset {name!r}: choose one of {', '.join([*names(), *ALIASES])}"
        raise InputError(text, code="unknown-dataset", parameter="name")
    return entry


def load(name: str) -> AnnData | pd.DataFrame:
    """Read a data set.

    Parameters
    ----------
    name : str
        One of `names`, or its short name.

    Returns
    -------
    AnnData or DataFrame
        A DataFrame for the one that is a Parquet table.

    Raises
    ------
    InputError
        The name is unknown, or the file is not on this machine; the message says where to get it and to put it.

    Examples
    --------
    >>> import imputome
    >>> imputome.datasets.load("pbmc68k").shape
    (700, 765)
    """
    entry = info(name)
    if entry.name == "pbmc68k":
        return pbmc68k()
    path = _find(entry)
    if path is None:
        raise _missing(entry)
    if entry.suffix == ".parquet":
        import pandas as pd

        if find_spec("pyarrow") is None:
            raise missing_extra(f"dataset {entry.name}", "pyarrow", "parquet")
        return pd.read_parquet(path)
    import anndata

    return anndata.read_h5ad(path)


def pbmc68k() -> AnnData:
    """Counts of 700 blood cells and 765 genes, recovered from the file that comes with scanpy.

    Returns
    -------
    AnnData
        Integer counts in ``X`` (CSR, float32), ``obs["cell_type"]`` (10 types) and ``obs["n_counts"]``, the molecules
        of the cell over all genes of the experiment.

    Raises
    ------
    InputError
        The installed scanpy holds another file.

    Notes
    -----
    The file holds ``log(1 + 1e4 count / n_counts)`` to three decimals. The inverse gives values within 0.09 of
    integers, so the nearest integer is the count. A checksum tells whether it is the file for which this was verified.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()
    >>> adata.shape, adata.obs["cell_type"].nunique()
    ((700, 765), 10)
    """
    use_writable_caches()
    import scanpy as sc
    import scipy.sparse as sp
    from anndata import AnnData

    reduced = sc.datasets.pbmc68k_reduced()
    raw = sp.csr_matrix(reduced.raw.X)
    raw.sort_indices()
    library = reduced.obs["n_counts"].to_numpy(dtype=np.float64)
    per_value = np.repeat(library, np.diff(raw.indptr))
    counts = np.rint(np.expm1(raw.data.astype(np.float64)) * per_value / 1e4).astype(np.float32)
    X = sp.csr_matrix((counts, raw.indices, raw.indptr), shape=raw.shape)
    checksum = _checksum(X)
    if checksum != PBMC68K_SHA256:
        text = f"scanpy {version('scanpy')} has another file pbmc68k_reduced (sha256 of the counts {checksum[:12]}...)"
        raise InputError(f"{text}: install scanpy 1.11", code="dataset-changed")
    return AnnData(
        X=X,
        obs=reduced.obs.rename(columns={"bulk_labels": "cell_type"}),
        var=reduced.raw.var.copy(),
        obsm={key: np.array(reduced.obsm[key]) for key in ("X_pca", "X_umap") if key in reduced.obsm},
        uns={"source": "scanpy datasets/10x_pbmc68k_reduced.h5ad: rint(expm1(raw) * n_counts / 1e4)"},
    )


# -- whether values are those of our results ---------------------------------------------------------------------------
def checksum(data: AnnData | pd.DataFrame) -> str:
    """The sha256 of the values and the names of a data set, however its file stores them.

    Parameters
    ----------
    data : AnnData of shape (n, G), or DataFrame
        Labels and other slots are not looked at.

    Returns
    -------
    str
        Of an AnnData, the sha256 of the names of the cells and of the genes (two lists in JSON) and of ``X`` as CSR
        with sorted indices and without zeros: indptr as int64, indices as int32, data as float32, all little-endian.
        Of a DataFrame, that of the names of its columns (a list in JSON) and of each column as float64.

    Raises
    ------
    ValueError
        The values are not numbers.

    Notes
    -----
    The order of cells and genes counts, as what is hidden of them in an evaluation depends on it. Cost: one copy of
    ``X`` as CSR; about a second for 100 MB.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.load("pbmc68k")
    >>> imputome.datasets.checksum(adata) == imputome.datasets.info("pbmc68k").sha256
    True
    """
    import hashlib

    import pandas as pd
    import scipy.sparse as sp

    if isinstance(data, pd.DataFrame):
        digest = hashlib.sha256(json.dumps(list(map(str, data.columns))).encode())
        for name in data.columns:
            digest.update(data[name].to_numpy(dtype="<f8").tobytes())
        return digest.hexdigest()
    X = sp.csr_matrix(data.X, dtype=np.float32, copy=True)
    X.sum_duplicates()
    X.eliminate_zeros()
    X.data[np.isnan(X.data)] = np.nan  # there are many NaN
    digest = hashlib.sha256(json.dumps([list(map(str, axis)) for axis in (data.obs_names, data.var_names)]).encode())
    _add_csr(digest, X)
    return digest.hexdigest()


def compare(entry: DatasetInfo, data: AnnData | pd.DataFrame) -> Message:
    """Whether these are the values that our results were made with, as a sentence.

    Its code is ``"same-values"`` or ``"other-values"``.
    """
    if checksum(data) == entry.sha256:
        return Message(f"{entry.name}: the same values as those of our results", code="same-values")
    shape = shape_of(entry, data)
    how = (
        f"{shape} instead of {entry.shape}" if shape != entry.shape else f"{shape} too, but others or in another order"
    )
    return Message(f"{entry.name}: other values than those of our results, {how}", code="other-values")


def check(entry: DatasetInfo) -> Message:
    """Whether the file on this machine has the values of our results, as a sentence; one that cannot be read is one.

    Cost: the file is read, and its values are copied; a second or two for each data set.
    """
    try:
        return compare(entry, load(entry.name))
    except ImputomeError as error:
        return error.message
    except (OSError, ValueError, KeyError, TypeError) as error:  # of anndata and pyarrow, for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Message(f"{entry.name}: the file cannot be read ({reason}): convert it again", code="unreadable")


def shape_of(entry: DatasetInfo, data: AnnData | pd.DataFrame) -> str:
    """Cells x genes of a data set, as in the table; sites x samples if it is a table of coverages."""
    columns = data.shape[1] if entry.suffix == ".h5ad" else sum(str(name).startswith("Cov.") for name in data.columns)
    return f"{data.shape[0]} x {columns}"


def _checksum(X: Any) -> str:
    import hashlib

    digest = hashlib.sha256()
    _add_csr(digest, X)
    return digest.hexdigest()


def _add_csr(digest: Any, X: Any) -> None:
    for array, dtype in ((X.indptr, "<i8"), (X.indices, "<i4"), (X.data, "<f4")):
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())


# -- where the files are -----------------------------------------------------------------------------------------------
def cache_folder() -> Path | None:
    """The folder in the user's cache that `load` looks in; None where nothing stays in it."""
    return _folders()[-1] if replaced.isdisjoint(("HOME", "XDG_CACHE_HOME")) else None


def is_found(path: Path) -> bool:
    """Whether `load` reads this file, or would if there were none of its name in an earlier folder."""
    return path.parent.absolute() in [folder.absolute() for folder in _folders()]


def _folders() -> list[Path]:
    """Folders to look in, in this order; the last one is in the user's cache."""
    from platformdirs import user_cache_dir

    folder = os.environ.get("IMPUTOME_DATA")
    return [*([Path(folder).expanduser()] if folder else []), Path(user_cache_dir("imputome"))]


def _missing(entry: DatasetInfo) -> InputError:
    cache = cache_folder()
    command = f"imputome datasets convert {entry.name} FILE..."
    if cache is None:
        how = f"make it with `{command} -o FOLDER`, or get it ready, and set IMPUTOME_DATA to its folder"
    else:
        how = f"make it with `{command}`, or put it, ready, into {cache}, or set IMPUTOME_DATA to its folder"
    text = f"{entry.name}{entry.suffix} is not on this machine: get the original from {entry.source}, and {how}"
    return InputError(f"{text} (`imputome datasets` says which files)", code="dataset-missing")


def _find(entry: DatasetInfo) -> Path | None:
    if entry.name == "pbmc68k":
        spec = find_spec("scanpy")
        if spec is None or spec.origin is None:
            return None
        paths = [Path(spec.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"]
    else:
        paths = [folder / f"{entry.name}{entry.suffix}" for folder in _folders()]
    return next((path for path in paths if path.is_file()), None)
