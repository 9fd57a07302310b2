"""Files of the known data sets from originals: each form is written here as it is published, and read back."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import tarfile
import warnings
import zipfile

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from codes import has_code, warns
from imputome import datasets
from imputome.errors import InputError
from imputome.io import unpacking
from imputome.io.conversion import convert

CELLS = [f"AAAC{k}-1" for k in range(7)]
GENES = ["Gapdh", "NA", "1", "nan", "Actb"]  # some look like missing values or numbers
COUNTS = np.random.default_rng(0).poisson(1.0, (7, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache, without staged data."""
    folder = tmp_path / "cache"
    monkeypatch.delenv("IMPUTOME_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(folder))
    monkeypatch.setattr(datasets, "replaced", set())
    return folder


def converted(name, files, **options):
    """The file of a data set; that its values are not those of our results is expected."""
    with warns("other-values"):
        made = convert(name, files, **options)
    assert not made.same
    assert datasets.info(name).shape in made.compared
    assert "{} x {}".format(*made.shape) in made.compared
    return datasets.load(name)


def expects(adata, X=COUNTS, cells=CELLS, genes=GENES):
    assert list(adata.obs_names) == list(cells)
    assert list(adata.var_names) == list(genes)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray() if sp.issparse(adata.X) else adata.X, X)


# -- 10x ---------------------------------------------------------------------------------------------------------------
def ten_x_members(symbols=GENES, *, version=1, prefix="filtered_gene_bc_matrices/hg19/"):
    mtx = io.BytesIO()
    scipy.io.mmwrite(mtx, sp.coo_matrix(COUNTS.T.astype(int)))
    columns = [[f"ENSG{k}" for k in range(len(symbols))], symbols, ["Gene Expression"] * len(symbols)]
    genes = "".join("\t".join(row) + "\n" for row in zip(*columns[: 2 if version == 1 else 3], strict=True))
    members = {
        "matrix.mtx": mtx.getvalue(),
        "genes.tsv" if version == 1 else "features.tsv": genes.encode(),
        "barcodes.tsv": "".join(f"{cell}\n" for cell in CELLS).encode(),
    }
    if version == 1:
        return {prefix + name: content for name, content in members.items()}
    return {f"{prefix}{name}.gz": gzip.compress(content) for name, content in members.items()}


def write_tar(path, members, *, mode="w:gz", **attributes):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in attributes.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("version", "mode"), [(1, "w:gz"), (3, "w:gz"), (1, "w")])
def test_a_10x_archive(tmp_path, version, mode):
    members = ten_x_members(["A", "B", "A", "C", "D"], version=version)
    members |= {"filtered_gene_bc_matrices/hg19/._matrix.mtx": b"of a Mac"}
    adata = converted("pbmc3k", [write_tar(tmp_path / "pbmc3k.tar.gz", members, mode=mode)])
    expects(adata, genes=["A", "B", "A-1", "C", "D"])
    assert list(adata.var["gene_ids"]) == [f"ENSG{k}" for k in range(5)]
    assert "pbmc3k.tar.gz" in adata.uns["source"]


def test_a_10x_folder_with_labels(tmp_path):
    for name, content in ten_x_members().items():
        path = tmp_path / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "labels.csv").write_text("cell,cell_type,score\n" + "".join(f"{cell},T,1.5\n" for cell in CELLS[:3]))
    adata = converted("pbmc3k", [tmp_path / "unpacked", tmp_path / "labels.csv"])
    expects(adata)
    assert list(adata.obs["cell_type"]) == ["T"] * 3 + ["unassigned"] * 4
    assert adata.obs["score"].isna().sum() == 4


def test_labels_that_originals_lack_are_told(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", ten_x_members())
    with warns("no-labels"):
        made = convert("pbmc3k", [path])
    assert made.lacking == ("cell_type",)


# -- archives that are not to be trusted -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["../matrix.mtx", "a/../../matrix.mtx", "/matrix.mtx", "..\\matrix.mtx"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_that_leads_outside_is_refused(tmp_path, cache, kind, name):
    path = tmp_path / f"in.{kind}"
    if kind == "tar":
        write_tar(path, {**ten_x_members(), name: b"x"})
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")
    with pytest.raises(InputError, check=has_code("unsafe-member")):
        convert("pbmc3k" if kind == "tar" else "baron", [path])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", path.name]
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_member_that_is_no_file_is_refused(tmp_path, kind):
    path = write_tar(tmp_path / "in.tar.gz", {"matrix.mtx": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(InputError, check=has_code("unsafe-member")):
        convert("pbmc3k", [path])


@pytest.mark.parametrize("name", ["hg19/matrix.mtx", "hg19/readme"])
def test_a_member_that_says_to_be_huge_is_refused(tmp_path, name):
    member = tarfile.TarInfo(name)
    member.size = 2**40
    (tmp_path / "in.tar.gz").write_bytes(gzip.compress(member.tobuf() + bytes(1024)))
    with pytest.raises(InputError, check=has_code("declared-size")):
        convert("pbmc3k", [tmp_path / "in.tar.gz"])


def test_a_header_that_says_to_be_huge_is_refused(tmp_path):
    member = tarfile.TarInfo("pax")
    member.size, member.type = 2**32, tarfile.XHDTYPE  # more would be in a header of its own
    (tmp_path / "in.tar.gz").write_bytes(gzip.compress(member.tobuf() + bytes(1024)))
    with pytest.raises(InputError, check=has_code("too-large")):
        convert("pbmc3k", [tmp_path / "in.tar.gz"])


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_UNPACKED", 2**16)
    zeros = bytes(2**17)
    write_tar(tmp_path / "a.tar.gz", {"matrix.mtx": zeros})
    write_tar(tmp_path / "b.tar", {"matrix.mtx.gz": gzip.compress(zeros)}, mode="w")
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Baron.csv", zeros)
    (tmp_path / "x_d2_.csv.bz2").write_bytes(bz2.compress(zeros))
    (tmp_path / "x_d4_.csv.bz2").write_bytes(bz2.compress(zeros))
    (tmp_path / "wgbs.csv").write_bytes(zeros)
    write_tar(tmp_path / "d.tar.gz", {"a/matrix.mtx": zeros[: 2**15], "b/matrix.mtx": zeros[: 2**15 + 1]})
    for name, files in {
        "pbmc3k": [["a.tar.gz"], ["b.tar"], ["d.tar.gz"]],
        "baron": [["c.zip"]],
        "klein": [["x_d2_.csv.bz2", "x_d4_.csv.bz2"]],
        "wgbs": [["wgbs.csv"]],
    }.items():
        for each in files:
            with pytest.raises(InputError, check=has_code("too-large")):
                convert(name, [tmp_path / file for file in each])


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 2)
    with pytest.raises(InputError, check=has_code("too-large")):
        convert("pbmc3k", [write_tar(tmp_path / "in.tar.gz", ten_x_members())])


def test_a_matrix_that_says_to_be_huge_is_refused(tmp_path):
    members = ten_x_members(prefix="")
    members["matrix.mtx"] = b"%%MatrixMarket matrix coordinate integer general\n5 7 9000000000000\n1 1 1\n"
    with pytest.raises(InputError, check=has_code("declared-size")):
        convert("pbmc3k", [write_tar(tmp_path / "in.tar.gz", members)])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda members: members.pop("genes.tsv"), "incomplete-10x-archive"),
        (lambda members: members.pop("matrix.mtx"), "not-a-10x-archive"),
        (lambda members: members.update({"b/matrix.mtx": b""}), "not-a-10x-archive"),
        (lambda members: members.update({"barcodes.tsv": b"A\nB\n"}), "inconsistent-10x-archive"),
        (lambda members: members.update({"barcodes.tsv": b"\xff\n"}), "damaged"),
        (lambda members: members.update({"matrix.mtx": members["matrix.mtx"][:-4]}), "damaged"),
        (lambda members: members.update({"matrix.mtx": b"x"}), "damaged"),
    ],
)
def test_an_archive_that_is_no_10x_archive(tmp_path, change, code):
    members = ten_x_members(prefix="")
    change(members)
    with pytest.raises(InputError, check=has_code(code)):
        convert("pbmc3k", [write_tar(tmp_path / "in.tar.gz", members)])


# -- tables of genes x cells -------------------------------------------------------------------------------------------
def write_klein(folder, X=COUNTS, genes=GENES, n_first=3):
    files = []
    for day, part in (("d2", X[:n_first]), ("d4", X[n_first:])):
        files.append(folder / f"GSM159949{day[1]}_ES_{day}_LIFminus.csv.bz2")
        lines = [",".join([gene, *(f"{int(value)}" for value in part[:, j])]) for j, gene in enumerate(genes)]
        files[-1].write_bytes(bz2.compress("\n".join([*lines, ""]).encode()))
    return files


def test_days_without_names_of_cells(tmp_path):
    names = ["d2_0", "d2_1", "d2_2", "d4_0", "d4_1", "d4_2", "d4_3"]
    adata = converted("klein", write_klein(tmp_path)[::-1])  # in any order
    expects(adata, cells=names)
    assert [f"{day}" for day in adata.obs["day"]] == ["d2"] * 3 + ["d4"] * 4


def write_r(path, table, *, corner=True):
    """A table as R's write.csv writes it, or write.table, without a field above the names of the rows."""
    text = table.to_csv(quoting=2, index_label="" if corner else None)
    path.write_bytes(text.encode() if corner else text.split(",", 1)[1].encode())
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


@pytest.mark.parametrize("corner", [True, False])
def test_counts_and_metadata(tmp_path, corner):
    table = pd.DataFrame(COUNTS.T.astype(int), index=GENES, columns=CELLS)
    meta = pd.DataFrame({"total": range(7), "cell_line_demuxlet": ["H1", "H2"] * 3 + ["H3"]}, index=CELLS)[::-1]
    files = [
        write_r(tmp_path / "sc_celseq2.count.csv.gz", table, corner=corner),
        write_r(tmp_path / "sc_celseq2.metadata.csv.gz", meta, corner=corner),
    ]
    adata = converted("scmix", files)
    expects(adata)
    assert list(adata.obs["cell_type"]) == ["H1", "H2"] * 3 + ["H3"]
    assert list(adata.obs["total"]) == list(range(7))


def test_conditions(tmp_path):
    table = pd.DataFrame(COUNTS.T.astype(int), index=GENES, columns=CELLS)
    files = [write_r(tmp_path / "kang_stim.csv", table), write_r(tmp_path / "kang_ctrl.csv", table + 1)]
    adata = converted("kang", files)
    expects(
        adata,
        np.concatenate([COUNTS + 1, COUNTS]),
        [f"{label}_{cell}" for label in ("ctrl", "stim") for cell in CELLS],
    )
    assert list(adata.obs["condition"]) == ["ctrl"] * 7 + ["stim"] * 7


def test_counts_and_spikes(tmp_path):
    table = pd.DataFrame(COUNTS.T.astype(int), index=GENES, columns=CELLS)
    spikes = pd.DataFrame(np.arange(14).reshape(2, 7), index=["1", "2"], columns=CELLS[::-1])
    spikes.insert(0, "true_molecules", [4064.945, 0.496])
    meta = pd.DataFrame({"cell_type": list("abababa"), "library_size_all_genes": range(7)}, index=CELLS)
    files = [
        write_r(tmp_path / f"zeisel_{name}.csv", part)
        for name, part in (("counts", table), ("metadata", meta), ("ercc", spikes))
    ]
    adata = converted("zeisel", files)
    expects(adata)
    np.testing.assert_array_equal(adata.obsm["ercc_counts"], spikes[CELLS].to_numpy().T)
    np.testing.assert_allclose(adata.uns["ercc_true_molecules"], [4064.945, 0.496], rtol=1e-6)
    assert list(adata.obs["cell_type"]) == list("abababa")


def test_training_data_of_a_model(tmp_path):
    beta = np.random.default_rng(1).random((7, 5)).astype(np.float32)
    samples = [f"TCGA.02.000{k}" for k in range(7)]
    table = pd.DataFrame(beta, index=samples, columns=[f"cg{k}" for k in range(5)])
    table[".outcome"] = [f"LGm{k % 3}" for k in range(7)]
    adata = converted("tcga_methylation", [write_r(tmp_path / "meth.csv", table[::-1])])
    expects(adata, beta, [f"TCGA-02-000{k}" for k in range(7)], [f"cg{k}" for k in range(5)])
    assert list(adata.obs["class"]) == [f"LGm{k % 3}" for k in range(7)]


def test_coverage(tmp_path):
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"pos": [5, 9], "M.a": [1, 0], "M.b": [2, 2], "Cov.a": [3, 1], "Cov.b": [2, 4]})
    table.to_csv(tmp_path / "wgbs.csv", index=False)
    pd.testing.assert_frame_equal(converted_table(tmp_path / "wgbs.csv"), table.astype("int32"))
    table.iloc[:, :-1].to_csv(tmp_path / "wgbs.csv", index=False)
    with pytest.raises(InputError, check=has_code("unknown-layout")):
        convert("wgbs", [tmp_path / "wgbs.csv"], overwrite=True)


def converted_table(path):
    with warns("other-values"):
        made = convert("wgbs", [path])
    assert "2 x 2 instead of 300684 x 4" in made.compared
    return datasets.load("wgbs")


# -- zips, HDF5 and AnnData --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".zip", ".csv"])
def test_baron(tmp_path, suffix):
    table = pd.DataFrame(COUNTS.astype(int), index=CELLS, columns=GENES)
    table["celltype"], table["batch"] = list("abababa"), [1, 2, 3, 1, 2, 3, 1]
    adata = converted("baron", [zipped(tmp_path / f"Baron{suffix}", table.to_csv())])
    expects(adata, cells=[f"cell_{k}" for k in range(7)])
    assert list(adata.obs["cell_type"]) == list("abababa")
    assert list(adata.obs["sample"]) == list("1231231")


def test_porpoise(tmp_path):
    values = np.random.default_rng(2).normal(size=(7, 2)).astype(np.float32)
    table = pd.DataFrame(
        {
            "case_id": [f"TCGA-{k}" for k in (1, 1, 2, 3, 4, 5, 6)],
            "slide_id": list("abcdefg"),
            **dict.fromkeys(("age", "is_female"), 1.0),
            "oncotree_code": "GBM",
            "survival_months": 5.5,
            "censorship": [0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0],
            "EGFR_rnaseq": values[:, 0],
            "EGFR_mut": 1,
            "TP53_rnaseq": values[:, 1],
        }
    )
    table.loc[6, "TP53_rnaseq"] = np.nan
    path = zipped(tmp_path / "tcga_gbmlgg_all_clean.csv.zip", table[::-1].to_csv(index=False))
    (tmp_path / "metadata.csv").write_text("case_id,ceccarelli_grade\nTCGA-1,G2\nTCGA-9,G4\n")
    adata = converted("tcga_expression", [path, tmp_path / "metadata.csv"])
    kept = [1, 2, 3, 4, 5]  # the last row of each patient comes first here, and the last patient lacks a value
    expects(adata, values[kept], [f"TCGA-{k}" for k in (1, 2, 3, 4, 5)], ["EGFR", "TP53"])
    assert list(adata.obs["dead"]) == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert adata.obs["ceccarelli_grade"].isna().sum() == 4


def zipped(path, text):
    if path.suffix == ".csv":
        path.write_text(text)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("folder/table.csv", text)
            archive.writestr("__MACOSX/folder/._table.csv", "of a Mac")
    return path


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_matrix_and_clusters(tmp_path, dtype):
    with h5py.File(tmp_path / "in.h5", "w") as root:
        root["X"], root["Y"] = COUNTS.astype(dtype), np.arange(7, dtype=dtype)
    for name in ("pbmc4k", "bladder"):
        adata = converted(name, [tmp_path / "in.h5"])
        expects(adata, cells=[f"cell_{k}" for k in range(7)], genes=[f"gene_{k}" for k in range(5)])
        assert list(adata.obs["cluster"]) == list("0123456")


@pytest.mark.parametrize(
    "parts",
    [{"X": COUNTS}, {"X": COUNTS, "Y": np.arange(5)}, {"X": COUNTS[0], "Y": np.arange(5)}, {"exprs": COUNTS}],
)
def test_an_h5_of_another_layout(tmp_path, parts):
    with h5py.File(tmp_path / "in.h5", "w") as root:
        for name, values in parts.items():
            root[name] = values
    with pytest.raises(InputError, check=has_code("unknown-layout")):
        convert("bladder", [tmp_path / "in.h5"])


def test_citeseq(tmp_path):
    proteins = {"5k": ["CD3", "CD11", "CD4"], "10k": ["CD4", "CD3"]}
    genes = {"5k": GENES, "10k": ["Other", *GENES[:0:-1]]}
    wanted, counts = [], []
    for label in ("5k", "10k"):
        adata = ad.AnnData(sp.csr_matrix(COUNTS), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=genes[label]))
        table = np.arange(7 * len(proteins[label])).reshape(7, -1)
        frame = pd.DataFrame(table, index=CELLS, columns=proteins[label])
        adata.obsm["protein_expression"] = frame if label == "5k" else table
        adata.uns["protein_names"] = np.array(proteins[label])
        adata.write_h5ad(tmp_path / f"pbmc_{label}_protein_v3.h5ad")
        wanted.append(adata[:, GENES[1:]].X.toarray())
        counts.append(frame[["CD3", "CD4"]].to_numpy())
    adata = converted("citeseq", [tmp_path / f"pbmc_{label}_protein_v3.h5ad" for label in ("10k", "5k")])
    expects(adata, np.concatenate(wanted), [f"{label}_{cell}" for label in ("5k", "10k") for cell in CELLS], GENES[1:])
    assert list(adata.obs["batch"]) == ["pbmc5k"] * 7 + ["pbmc10k"] * 7
    np.testing.assert_array_equal(adata.obsm["protein_counts"], np.concatenate(counts))
    assert list(adata.uns["protein_names"]) == ["CD3", "CD4"]


# -- whether the values are those of our results -----------------------------------------------------------------------
@pytest.fixture
def known(tmp_path, monkeypatch):
    """The table of data sets, as if our results were made with these counts, on days 2 and 4."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert("klein", write_klein(tmp_path), tmp_path)
    entry = datasets.info("klein")
    data = ad.read_h5ad(tmp_path / "klein_d2_d4.h5ad")
    changed = dataclasses.replace(entry, sha256=datasets.checksum(data), shape="7 x 5")
    monkeypatch.setattr(datasets, "DATASETS", tuple(changed if each is entry else each for each in datasets.DATASETS))
    return data


def test_the_same_values_give_no_warning(tmp_path, known):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = convert("klein", write_klein(tmp_path))
    assert made.same
    assert datasets.check(datasets.info("klein")).code == "same-values"


def test_an_h5ad_that_is_ready_is_taken(tmp_path, known):
    known.X = known.X.toarray().astype(np.float64)  # however it is stored
    known.write_h5ad(tmp_path / "mine.h5ad")
    assert convert("klein", [tmp_path / "mine.h5ad"]).same


@pytest.mark.parametrize("what", ["value", "gene", "order", "cells"])
def test_a_tampered_file_gives_a_warning(tmp_path, known, what):
    X, genes = COUNTS.copy(), list(GENES)
    if what == "value":
        X[3, 2] += 1
    elif what == "gene":
        genes[0] = "Gapdhs"
    elif what == "order":
        X[[0, 1]] = X[[1, 0]]
    else:
        X = X[:-1]
    with warns("other-values"):
        made = convert("klein", write_klein(tmp_path, X, genes))
    assert (made.same, made.path.is_file()) == (False, True)
    assert ("6 x 5 instead of 7 x 5" if what == "cells" else "7 x 5 too") in made.compared
    assert datasets.check(datasets.info("klein")).code == "other-values"


def test_a_checksum_is_of_values_and_not_of_storage():
    X = sp.csr_matrix(COUNTS)
    data = ad.AnnData(X.copy(), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=GENES))
    whole = datasets.checksum(data)
    unsorted = X.copy()
    for k in range(7):
        part = slice(*unsorted.indptr[k : k + 2])
        unsorted.indices[part], unsorted.data[part] = unsorted.indices[part][::-1], unsorted.data[part][::-1]
    unsorted.has_sorted_indices = False
    zeros = sp.csr_matrix((np.append(X.data, 0), np.append(X.indices, 4), [*X.indptr[:-1], X.nnz + 1]), X.shape)
    for other in (X.toarray(), sp.csc_matrix(X), X.astype(np.int64), unsorted, zeros):
        data.X = other
        assert datasets.checksum(data) == whole
    assert data.X.nnz == X.nnz + 1  # it was not changed
    data.obs["day"] = "d2"
    assert datasets.checksum(data) == whole
    assert datasets.checksum(data[:, ::-1]) != whole


@pytest.mark.parametrize("name", datasets.names())
@pytest.mark.real
def test_staged_files_have_the_values_of_our_results(shared_data, monkeypatch, name):
    monkeypatch.setenv("IMPUTOME_DATA", str(shared_data))
    assert datasets.check(datasets.info(name)).code == "same-values"


@pytest.mark.real
def test_klein_from_its_form(shared_data, tmp_path):
    staged = ad.read_h5ad(shared_data / "klein_d2_d4.h5ad")
    files = write_klein(tmp_path, staged.X.toarray(), staged.var_names, n_first=303)
    assert convert("klein", files).same


@pytest.mark.real
def test_pbmc3k_from_its_form(shared_data, tmp_path, monkeypatch):
    """Symbols that repeat, as in the original, get the same numbers."""
    staged = ad.read_h5ad(shared_data / "pbmc3k_raw.h5ad")
    known, symbols = set(staged.var_names), []
    for name in staged.var_names:
        base, _, number = name.rpartition("-")
        symbols.append(base if number.isdecimal() and base in known else name)
    assert len(set(symbols)) < len(symbols)
    monkeypatch.setitem(globals(), "COUNTS", staged.X.toarray())
    monkeypatch.setitem(globals(), "CELLS", list(staged.obs_names))
    made = convert("pbmc3k", [write_tar(tmp_path / "pbmc3k.tar.gz", ten_x_members(symbols))])
    assert made.same
    assert made.lacking == ("cell_type",)


# -- wrong files -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [entry.name for entry in datasets.DATASETS if entry.in_r])
def test_formats_of_r_get_lines_of_r(tmp_path, name):
    (tmp_path / "data.RData").touch()
    with pytest.raises(InputError, check=has_code("format-of-r")) as error:
        convert(name, [tmp_path / "data.RData"])
    entry = datasets.info(name)
    assert [line for line in (*entry.in_r, entry.files) if line not in str(error.value)] == []
    assert len(entry.in_r) == 2


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("in.tar.gz", b"no archive", "damaged"),
        ("in.tar.gz", gzip.compress(b"no archive" * 100), "damaged"),
        ("in.tar.gz", gzip.compress(bytes(4096))[:-12], "damaged"),
        ("in.tar.gz", gzip.compress(bytes(4096))[:-8] + bytes(8), "damaged"),
        ("in.tar.gz", gzip.compress(bytes(4096)), "not-a-10x-archive"),
        ("in.tar.gz", b"", "damaged"),
        ("in.h5ad", b"no HDF5", "unreadable"),
    ],
    # a gzip file holds the second in which it was made: ids made of it would differ between processes
    ids=["text", "gzip of text", "cut", "wrong checksum", "gzip of zeros", "empty", "h5ad"],
)
def test_damaged_archives(tmp_path, cache, name, content, code):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, check=has_code(code)):
        convert("pbmc3k", [tmp_path / name])
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"no bz2", "damaged"),
        (bz2.compress(b"Gapdh,1,2\n")[:-4], "damaged"),
        (bz2.compress(b""), "unknown-layout"),
        (bz2.compress(b"Gapdh,1,2\nActb,1\nActg,1,2,3,4\n"), "unreadable"),
        (bz2.compress(b"Gapdh,1,2\nActb,1,x\n"), "not-numbers"),
        (bz2.compress(b"Gapdh,1,2\nActb,1,\n"), "not-counts"),
        (bz2.compress(b"Gapdh,1,2\nActb,1,0.5\n"), "not-counts"),
        (bz2.compress(b"Gapdh,1,2\nActb,1,-1\n"), "not-counts"),
        (bz2.compress(b"\xff\xfe,1,2\n"), "damaged"),
    ],
)
def test_damaged_tables(tmp_path, content, code):
    files = write_klein(tmp_path)
    files[0].write_bytes(content)
    with pytest.raises(InputError, check=has_code(code)):
        convert("klein", files)


def test_files_that_do_not_belong_together(tmp_path):
    files = write_klein(tmp_path)
    (tmp_path / "GSM_ES_d7_LIFminus.csv.bz2").write_bytes(files[0].read_bytes())
    for given in (files[:1], [*files, tmp_path / "GSM_ES_d7_LIFminus.csv.bz2"], [*files, files[0]], []):
        with pytest.raises(InputError, check=has_code("number-of-files")):
            convert("klein", given)
    (tmp_path / "more").mkdir()
    other = write_klein(tmp_path / "more", COUNTS, ["Other", *GENES[1:]])
    with pytest.raises(InputError, check=has_code("other-genes")):
        convert("klein", [files[0], other[1]])
    with pytest.raises(InputError, check=has_code("repeated-names")):
        convert("klein", write_klein(tmp_path, COUNTS, ["Actb", *GENES[1:]]))


def test_labels_of_other_cells(tmp_path):
    path = write_tar(tmp_path / "in.tar.gz", ten_x_members())
    for text in ("cell,cell_type\nother,T\n", "cell\nAAAC0-1\n", "cell,a\nAAAC0-1,T\nAAAC0-1,B\n"):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(InputError, check=has_code("labels-do-not-fit")):
            convert("pbmc3k", [path, tmp_path / "labels.csv"])


def test_what_is_not_there_or_is_not_wanted(tmp_path):
    for name, code in (("pbmc3k", "no-file"), ("pbmc68k", "nothing-to-convert"), ("pbmc", "unknown-dataset")):
        with pytest.raises(InputError, check=has_code(code)):
            convert(name, [tmp_path / "in.tar.gz"])
    (tmp_path / "folder").mkdir()
    for name, code in (("pbmc3k", "unknown-format"), ("scmix", "unreadable"), ("bladder", "damaged")):
        with pytest.raises(InputError, check=has_code(code)):
            convert(name, [tmp_path / "folder"])


# -- the file that is written ------------------------------------------------------------------------------------------
def test_nothing_is_replaced_without_leave(tmp_path, cache):
    files = write_klein(tmp_path)
    converted("klein", files)
    before = (cache / "klein_d2_d4.h5ad").read_bytes()
    with pytest.raises(InputError, check=has_code("output-exists")):
        convert("klein", write_klein(tmp_path, COUNTS + 1))
    assert (cache / "klein_d2_d4.h5ad").read_bytes() == before
    files[0].write_bytes(b"damaged")
    with pytest.raises(InputError, check=has_code("damaged")):
        convert("klein", files, overwrite=True)
    assert (cache / "klein_d2_d4.h5ad").read_bytes() == before
    expects(
        converted("klein", write_klein(tmp_path, COUNTS + 1), overwrite=True),
        COUNTS + 1,
        ["d2_0", "d2_1", "d2_2", "d4_0", "d4_1", "d4_2", "d4_3"],
    )
    assert [path.name for path in cache.iterdir()] == ["klein_d2_d4.h5ad"]


def test_folders_to_write_to(tmp_path, monkeypatch):
    files = write_klein(tmp_path)
    with pytest.raises(InputError, check=has_code("no-folder")):
        convert("klein", files, tmp_path / "none")
    monkeypatch.setattr(datasets, "replaced", {"HOME"})
    with pytest.raises(InputError, check=has_code("no-folder")) as error:
        convert("klein", files)
    assert error.value.parameter == "output"
    with pytest.raises(InputError, check=has_code("dataset-missing")) as error:
        datasets.load("klein")
    assert "convert klein_d2_d4 FILE... -o FOLDER" in str(error.value)
