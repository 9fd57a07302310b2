"""Public data sets: one that comes with scanpy, and others that are read from a folder.

Nothing is downloaded. `load` looks in the folder named by the environment variable ``IMPUTOME_DATA``, then in the
user's cache folder. If the file is in neither, the error says where the original is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.caches import replaced, use_writable_caches
from imputome.errors import InputError, missing_extra

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

# sha256 of the recovered counts of pbmc68k: indptr as int64, indices as int32, data as float32, all little-endian
PBMC68K_SHA256 = "96833bfc9cc2258896f21115942f89b7672cc7b9146abcb035756410aa21cc70"


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is and where its public original is."""

    name: str  # stem of its file
    what: str  # one line
    source: str  # package or repository, and the path in it
    licence: str  # of the packaging, as the source states it; the measurements are public
    shape: str  # cells x genes
    labels: str  # columns of ``obs`` (or other slots) that hold a known truth
    suffix: str = ".h5ad"  # of its file


# one row each: name, what, source, licence, shape, labels
# fmt: off
DATASETS: tuple[DatasetInfo, ...] = (
    DatasetInfo("pbmc68k", "10x PBMC 68k, 700 cells and 765 variable genes, counts recovered",
                "scanpy: datasets/10x_pbmc68k_reduced.h5ad", "BSD-3-Clause", "700 x 765", "cell_type (10)"),
    DatasetInfo("pbmc3k_raw", "10x PBMC 3k, all genes",
                "PyPI sdist desc 0.1.4.1: desc/datasets/pbmc.h5ad; labels: github.com/chanzuckerberg/cellxgene",
                "MIT", "2700 x 32738", "cell_type (8 and 'unassigned')"),
    DatasetInfo("pbmc4k_top2000", "10x PBMC 4k, 2000 chosen genes without names",
                "github.com/ttgump/scDCC: data/Small_Datasets/10X_PBMC_top2000.h5", "Apache-2.0", "4271 x 2000",
                "cluster (8)"),
    DatasetInfo("mouse_bladder_2100", "Mouse Cell Atlas bladder (Han 2018), genes without names",
                "github.com/ttgump/scDeepCluster: scRNA-seq data/mouse_bladder_cell_select_2100.h5", "Apache-2.0",
                "2100 x 20670", "cluster (16)"),
    DatasetInfo("baron_pancreas_7162x1000", "human pancreas, inDrop (Baron 2016, GSE84133), 1000 chosen genes",
                "github.com/datapplab/AutoClass: datasets/Baron.zip", "GPL-3", "7162 x 1000",
                "cell_type (9), sample (3 donors)"),
    DatasetInfo("klein_d2_d4", "mouse embryonic stem cells, inDrop, days 2 and 4 (Klein 2015, GSE65525)",
                "github.com/lxh07/scIALM: inexact_alm/preprocess/data/Klein/*.csv.bz2", "none stated", "986 x 24175",
                "day (2)"),
    DatasetInfo("kang_pbmc_stim", "PBMC, control and interferon-beta (Kang 2018, GSE96583)",
                "github.com/immunogenomics/harmony: data/pbmc_stim.RData", "GPL-3", "2000 x 9015", "condition (2)"),
    DatasetInfo("scmix_celseq2_3cl", "sc_mixology, 3 cell lines by genotype, CEL-seq2 with ERCC",
                "github.com/LuyiTian/sc_mixology: data/csv/sc_celseq2.*", "MIT", "274 x 28204", "cell_type (3)"),
    DatasetInfo("pbmc_citeseq_400", "10x PBMC 5k and 10k with 14 surface proteins, 200 cells each",
                "github.com/scverse/scvi-tools: tests/test_data/pbmc_{5k,10k}_protein_v3.h5ad", "BSD-3-Clause",
                "400 x 15792", "batch (2), obsm protein_counts"),
    DatasetInfo("zeisel_ercc_1000g", "mouse cortex with ERCC (Zeisel 2015, GSE60361), 1000 chosen genes",
                "github.com/jingshuw/descend: data/zeisel.rda", "GPL (>= 2)", "1464 x 1000",
                "cell_type (3), obsm ercc_counts"),
    DatasetInfo("tcga_gbmlgg_zscore_1544g", "TCGA glioma RNA-seq, cBioPortal z-scores, with survival",
                "github.com/mahmoodlab/PORPOISE: datasets_csv_mutsig/tcga_gbmlgg_all_clean.csv.zip", "GPL-3",
                "569 x 1544", "survival_months, dead, ceccarelli_grade"),
    DatasetInfo("tcga_glioma_meth_880x1205", "TCGA glioma methylation, beta values (Ceccarelli 2016), with survival",
                "Debian r-bioc-tcgabiolinksgui.data 1.18.0: glioma.idh.model", "GPL-3+", "880 x 1205",
                "class (6), survival_months, dead, grade"),
    DatasetInfo("wgbs_chr21_M_Cov", "bisulfite sequencing of chromosome 21 with coverage, one row a CpG",
                "github.com/kdkorthauer/dmrseq: data/BS.chr21.rda", "MIT", "300684 x 4", "columns pos, M.*, Cov.*",
                ".parquet"),
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
    """Names of the data sets, without the short names that `load` also takes."""
    return [entry.name for entry in DATASETS]


def available() -> list[tuple[DatasetInfo, Path | None]]:
    """All known data sets, each with its file on this machine or None."""
    return [(entry, _find(entry)) for entry in DATASETS]


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
    full_name = ALIASES.get(name, name)
    entry = next((entry for entry in DATASETS if entry.name == full_name), None)
    if entry is None:
        text = f"there is no dataset {name!r}: choose one of {', '.join([*names(), *ALIASES])}"
        raise InputError(text, code="unknown-dataset", parameter="name")
    if entry.name == "pbmc68k":
        return pbmc68k()
    path = _find(entry)
    if path is None:
        text = f"{entry.name}{entry.suffix} is not on this machine: get it from {entry.source} and "
        if replaced.isdisjoint(("HOME", "XDG_CACHE_HOME")):  # else nothing stays in the cache
            text += f"put it into {_folders()[-1]}, or "
        raise InputError(f"{text}set IMPUTOME_DATA to its folder", code="dataset-missing")
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


def _checksum(X: Any) -> str:
    import hashlib

    digest = hashlib.sha256()
    for array, dtype in ((X.indptr, "<i8"), (X.indices, "<i4"), (X.data, "<f4")):
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return digest.hexdigest()


def _folders() -> list[Path]:
    """Folders to look in, in this order; the last one is in the user's cache."""
    from platformdirs import user_cache_dir

    folder = os.environ.get("IMPUTOME_DATA")
    return [*([Path(folder).expanduser()] if folder else []), Path(user_cache_dir("imputome"))]


def _find(entry: DatasetInfo) -> Path | None:
    if entry.name == "pbmc68k":
        spec = find_spec("scanpy")
        if spec is None or spec.origin is None:
            return None
        paths = [Path(spec.origin).parent / "datasets" / "10x_pbmc68k_reduced.h5ad"]
    else:
        paths = [folder / f"{entry.name}{entry.suffix}" for folder in _folders()]
    return next((path for path in paths if path.is_file()), None)
