"""Columns that describe the rows, comments, decimal commas, codes of missing values, names that look like values."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from codes import has_code, warns
from imputome.errors import InputError
from imputome.inspection.state import inspect
from imputome.io.table_layout import TableOptions, whole_names, whole_number
from imputome.io.tables import read_table

FAULTS = Path(__file__).resolve().parents[3] / "shared" / "faults"
RNG = np.random.default_rng(0)
G, N = 60, 12
BETA = np.clip(RNG.beta(0.4, 0.6, (G, 1)) + RNG.normal(0, 0.08, (G, N)), 0.001, 0.999).round(4)
COUNTS = RNG.poisson(RNG.gamma(1, 60, (G, 1)) * RNG.gamma(3, 1 / 3, (G, N)))
SAMPLES = [f"s{k}" for k in range(N)]


def table(values, names=None, **leading):
    frame = pd.DataFrame(values, columns=names or SAMPLES)
    for k, (name, column) in enumerate(leading.items()):
        frame.insert(k, name, column)
    frame.insert(0, "gene", [f"g{k}X" for k in range(len(values))])
    return frame


def read(tmp_path, frame, *, genes_in="rows", name="t.tsv", **options):
    if isinstance(frame, str):
        (tmp_path / name).write_text(frame)
    else:
        frame.to_csv(tmp_path / name, sep="\t", index=False, na_rep="NA")
    return read_table(tmp_path / name, genes_in=genes_in, options=TableOptions(**options))


# -- columns that describe the rows ------------------------------------------------------------------------------------
IDS = RNG.integers(1, 130_000, G)


@pytest.mark.parametrize("values", [BETA, COUNTS], ids=["beta", "counts"])
@pytest.mark.parametrize(
    "leading",
    [
        {"Entrez_Gene_Id": IDS},
        {"Entrez_Gene_Id": np.where(IDS > 9000, IDS.astype(float), np.nan)},
        {"Gene Symbol": [f"SYM{k}" for k in range(G)], "entrezgene": IDS},
        {
            "chrom": RNG.choice(["1", "2", "X"], G),
            "chromStart": IDS,
            "chromEnd": IDS + 50,
            "strand": RNG.choice(["+", "-"], G),
        },
        {"Length": IDS},
        {"description": [f"a gene, of kind {k}" for k in range(G)]},
        {"words that nobody knows": [f"w{k}" for k in range(G)], "gene_biotype": ["protein_coding"] * G},
        {"MAPINFO": IDS, "GC.content": RNG.random(G).round(3)},
    ],
    ids=lambda leading: "+".join(leading),
)
def test_columns_known_by_name_or_text_are_passed_through(tmp_path, values, leading):
    with warns("annotation-passed"):
        adata = read(tmp_path, table(values, **leading))
    np.testing.assert_array_equal(adata.X, values.T)
    assert (list(adata.obs_names), list(adata.var.columns)) == (SAMPLES, list(leading))
    for name, column in leading.items():
        texts = ["NA" if value != value else str(value) for value in column]
        assert [str(value).removesuffix(".0") for value in adata.var[name]] == [
            text.removesuffix(".0") for text in texts
        ]
    table(values, **leading).to_parquet(tmp_path / "t.parquet", index=False)
    with warns("annotation-passed"):
        adata = read_table(tmp_path / "t.parquet", genes_in="rows")
    assert (adata.shape, list(adata.var.columns)) == ((N, G), list(leading))


def test_the_comment_and_columns_of_feature_counts(tmp_path):
    spans = {
        "Chr": ["chr1;chr1"] * G,
        "Start": ["12;70"] * G,
        "End": ["50;99"] * G,
        "Strand": ["+;+"] * G,
        "Length": IDS,
    }
    text = table(COUNTS, **spans).to_csv(sep="\t", index=False).replace("gene\t", "Geneid\t", 1)
    comment = '# Program:featureCounts v2.0.1; Command:"featureCounts" "-T" "4" "-a" "x.gtf"\n'
    for name in ("t.txt", "t.csv"):
        with warns("annotation-passed"):
            adata = read(tmp_path, comment + "# more\n" + text, name=name)
        np.testing.assert_array_equal(adata.X, COUNTS.T)
        assert list(adata.var.columns) == list(spans)
        assert list(adata.var["Length"]) == list(IDS)
    # a header may begin with the sign too
    adata = read(tmp_path, "#" + table(COUNTS).to_csv(sep="\t", index=False))
    assert list(adata.obs_names) == SAMPLES


def test_columns_that_only_their_values_give_away_are_refused_by_name(tmp_path):
    for values, column in ((BETA, IDS), (COUNTS, IDS), (BETA, RNG.integers(1, 23, G)), (BETA * 15, IDS)):
        with pytest.raises(InputError, check=has_code("annotation-column")) as caught:
            read(tmp_path, table(values, wxyz=column))
        assert "wxyz" in str(caught.value)
        named = caught.value.message.options["annotation"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what the user says needs no warning
            adata = read(tmp_path, table(values, wxyz=column), annotation=(named,))
        np.testing.assert_array_equal(adata.X, values.T)
        np.testing.assert_array_equal(adata.var["wxyz"], column)


def test_advice_keeps_the_columns_that_were_recognised(tmp_path):
    """Following the advice once, or twice, must be enough."""
    words = [f"w{k}" for k in range(G)]
    frame = table(BETA, **{"words": words, "wxyz": IDS, "more": words})
    annotation = None
    for code in ("not-a-number", "annotation-column"):
        with pytest.raises(InputError, check=has_code(code)) as caught:
            read(tmp_path, frame.drop(columns="more") if code == "annotation-column" else frame, annotation=annotation)
        assert caught.value.message.options["annotation"] == {"not-a-number": "words,more"}.get(code, "words,wxyz")
    assert read(tmp_path, frame, annotation=("words", "wxyz", "more")).shape == (N, G)


def test_identifiers_keep_their_zeros_and_names_differ(tmp_path):
    with warns("annotation-passed"):
        adata = read(tmp_path, table(BETA, ID=[f"0{k}" for k in IDS]).assign(x=1.5))
    assert list(adata.var["ID"]) == [f"0{k}" for k in IDS]
    text = table(BETA).to_csv(sep="\t", index=False).replace("gene\t", "gene\tID\tID\t", 1)
    text = text.replace("X\t", "X\t12\tab\t")
    with warns("annotation-passed"):
        assert list(read(tmp_path, text).var.columns) == ["ID", "ID_"]


def test_gct(tmp_path):
    text = f"#1.2\n{G}\t{N}\n" + table(COUNTS, Description=["a b"] * G).to_csv(sep="\t", index=False)
    with warns("annotation-passed"):
        np.testing.assert_array_equal(read(tmp_path, text).X, COUNTS.T)


@pytest.mark.filterwarnings("ignore:1 sample of")
def test_the_user_decides_in_the_end(tmp_path):
    assert read(tmp_path, table(BETA, Length=IDS), annotation=("none",)).shape == (N + 1, G)
    frame = table(BETA, **{"a": ["x"] * G})
    frame["last"] = [f"w{k}" for k in range(G)]
    assert read(tmp_path, frame, annotation=("a", "last")).shape == (N, G)
    with pytest.raises(InputError, check=has_code("no-column")):
        read(tmp_path, table(BETA), annotation=("nothing",))


def test_columns_of_samples(tmp_path):
    frame = pd.DataFrame(BETA, columns=[f"g{k}" for k in range(N)])
    frame.insert(0, "cluster", RNG.integers(0, 5, G))
    frame.insert(0, "type", RNG.choice(["GBM", "LGG"], G))
    frame.insert(0, "id", [f"p{k}" for k in range(G)])
    with warns("annotation-passed"):
        adata = read(tmp_path, frame, genes_in="columns")
    assert (adata.shape, list(adata.obs.columns)) == ((G, N), ["type", "cluster"])
    np.testing.assert_array_equal(adata.X, BETA)


def test_a_sample_of_texts_or_with_one_marker_is_no_annotation(tmp_path):
    for column in (["ND"] * G, ["1,5"] * G, ["ND"] * 50 + [0.5] * 10, ["0.5"] * (G - 1) + ["x"]):
        with pytest.raises(InputError) as caught:
            read(tmp_path, table(BETA, s=column))
        assert caught.value.code in ("not-a-number", "decimal-comma")


def test_the_row_of_the_faults(tmp_path):
    if not FAULTS.is_dir():
        pytest.skip(f"{FAULTS} is not here")
    with warns("annotation-passed"):
        adata = read_table(FAULTS / "annotation_column.txt", genes_in="rows")
    assert adata.shape == (80, 250)
    assert np.nanmax(adata.X) <= 1
    assert str(adata.var["Entrez_Gene_Id"].iloc[0]) == "45682"


# -- decimal commas and codes ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "separator"), [("t.csv", ";"), ("t.tsv", "\t"), ("t.txt", ";"), ("t.csv", ",")])
def test_decimal_commas(tmp_path, name, separator):
    rows = [["id", "a", "b"], ["c1", "1,5", "-,25"], ["c2", "3", "NA"], ["c3", "1e-2", "1000,125"]]
    quote = '"' if separator == "," else ""
    text = "\n".join(separator.join(f"{quote}{field}{quote}" for field in row) for row in rows)
    adata = read(tmp_path, text, genes_in="columns", name=name, decimal=",")
    np.testing.assert_array_equal(adata.X, [[1.5, -0.25], [3, np.nan], [0.01, 1000.125]])
    with pytest.raises(InputError, check=has_code("decimal-comma")) as caught:
        read(tmp_path, text, genes_in="columns", name=name)
    assert caught.value.message.options == {"decimal": ","}


def test_decimal_points_and_thousands_are_not_read_as_decimal_commas(tmp_path):
    with pytest.raises(InputError, check=has_code("not-a-number")):
        read(tmp_path, "id;a;b\nc;1,5;2.5\nd;1;2\n", genes_in="columns", decimal=",")
    with pytest.raises(InputError, check=has_code("decimal-comma")) as caught:
        read(tmp_path, 'id\ta\tb\nc\t"1,500"\t2\nd\t1\t2\n', genes_in="columns")
    assert "thousands" in str(caught.value)
    with pytest.raises(InputError, check=has_code("thousands")):
        read(tmp_path, "id\ta\tb\nc\t1,500,000.5\t2\nd\t1\t2\n", genes_in="columns")
    with pytest.raises(InputError, check=has_code("decimal")):
        TableOptions(decimal=";")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_numbers_and_texts_that_mean_missing(tmp_path, suffix):
    frame = pd.DataFrame({"a": [1.5, -1, -9.0], "b": [-1.0, 2, 3]}, index=["x", "y", "z"])
    frame["c"] = ["ND", "4", "5"] if suffix == ".csv" else [np.nan, 4, 5]
    path = tmp_path / f"t{suffix}"
    frame.to_csv(path) if suffix == ".csv" else frame.to_parquet(path)
    adata = read_table(path, genes_in="columns", options=TableOptions(missing=("-1", "-9.00", "ND")))
    np.testing.assert_array_equal(adata.X, [[1.5, np.nan, np.nan], [np.nan, 2, 4], [np.nan, 3, 5]])


def test_a_code_is_refused_and_the_advice_works(tmp_path):
    values = np.where(RNG.random(BETA.shape) < 0.05, -1, BETA)
    (message,) = inspect(read(tmp_path, table(values))).errors
    assert message.code == "missing-code"
    adata = read(tmp_path, table(values), missing=(message.options["missing"],))
    np.testing.assert_array_equal(np.isnan(adata.X), values.T == -1)


# -- names that look like numbers --------------------------------------------------------------------------------------
NUMBERED = [f"{1 + k // 5}.{1 + k % 5}" for k in range(N)]


def test_samples_called_1_1(tmp_path):
    for values in (BETA, COUNTS, COUNTS / 3):
        assert list(read(tmp_path, table(values, NUMBERED)).obs_names) == NUMBERED
        turned = table(values, NUMBERED).set_index("gene").T
        assert (
            list(read(tmp_path, turned.rename_axis("sample").reset_index(), genes_in="columns").obs_names) == NUMBERED
        )
        bare = table(values, NUMBERED).to_csv(sep="\t", index=False).removeprefix("gene\t")  # as R writes it
        assert list(read(tmp_path, bare).obs_names) == NUMBERED


def test_a_header_of_values_is_still_seen(tmp_path):
    for values in (BETA, np.log2(COUNTS + 1).round(3), BETA.round(1) + 0.1):
        with pytest.raises(InputError, check=has_code("no-header")):
            read(tmp_path, table(values).to_csv(sep="\t", index=False, header=False))


def test_whole_numbers_as_names(tmp_path):
    frame = table(BETA).assign(gene=[99_970 + 10 * k for k in range(G)]).astype({"gene": object})
    frame.loc[3, "gene"] = "1e+05"
    assert list(read(tmp_path, frame).var_names[2:5]) == ["99990", "100000", "100010"]
    assert whole_names(["007", "NA", "1e3"]) == ["007", "NA", "1e3"]
    assert whole_names(["1.0", "2.0"]) == ["1.0", "2.0"]  # nothing shows that these are whole numbers
    for text, number in (("1.5E+2", "150"), ("1e+05", "100000"), ("12.", "12"), ("3.40e1", "34"), ("1.25e1", "1.25e1")):
        assert whole_number(text) == number
        assert number == text or int(number) == float(text)


# -- other encodings ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_marked_encodings_are_read(tmp_path, encoding):
    (tmp_path / "t.txt").write_bytes("gene\tä\tb\ng\t1.5\t2\nh\t3\t4\n".encode(encoding))
    assert list(read_table(tmp_path / "t.txt", genes_in="rows").obs_names) == ["ä", "b"]


@pytest.mark.parametrize(
    ("encoding", "letter"), [("latin-1", "é"), ("cp1252", "€"), ("utf-16-le", "é"), ("utf-16-be", "é")]
)
@pytest.mark.parametrize("name", ["a table.csv", "t.csv.gz"])
def test_the_command_that_converts_works(tmp_path, encoding, letter, name):
    import gzip

    content = f"gene,{letter},b\ng,1.5,2\nh,3,4\n".encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(InputError) as caught:
        read_table(tmp_path / name, genes_in="rows")
    command = str(caught.value).split("`")[1]
    subprocess.run(["bash", "-c", command], check=True)
    assert list(read_table(tmp_path / f"utf8_{name}", genes_in="rows").obs_names) == [letter, "b"]


# -- tables that are no table of samples -------------------------------------------------------------------------------
def headerless(names, values):
    return "".join("\t".join([name, *map(str, row)]) + "\n" for name, row in zip(names, values, strict=True))


def test_counts_without_a_header_are_refused(tmp_path):
    # STAR writes ReadsPerGene.out.tab so: the reads that are no gene's first, three columns, no header
    genes = [f"ENSG{k:05d}" for k in range(G)]
    star = headerless(["N_unmapped", "N_noFeature", *genes], [[9, 7, 8], [1, 2, 3], *COUNTS[:, :3]])
    plain = headerless(genes, COUNTS[:, :3])
    repeated = headerless([f"gene{k}" for k in range(G)], np.minimum(COUNTS, 2))
    for text in (star, plain, repeated):
        with pytest.raises(InputError, check=has_code("no-header")):
            read(tmp_path, text)


@pytest.mark.parametrize("corner", ["", "gene", "rn", "Geneid", "entrez"])
def test_samples_may_be_called_by_numbers(tmp_path, corner):
    names = ["TP53", "MYC2", "ACTB"]
    text = headerless([corner, *names], [[3, 1, 2], *COUNTS[:3, :3]])
    assert read(tmp_path, text).obs_names.tolist() == ["3", "1", "2"]


@pytest.mark.parametrize(
    "columns",
    [
        ["length", "effective_length", "expected_count", "TPM", "FPKM"],
        ["Length", "EffectiveLength", "TPM", "NumReads"],
        ["length", "eff_length", "est_counts", "tpm"],
    ],
    ids=["RSEM", "salmon", "kallisto"],
)
def test_measures_of_one_sample_are_no_samples(tmp_path, columns):
    frame = pd.DataFrame(RNG.gamma(1, 50, (G, len(columns))).round(2), columns=columns)
    frame.insert(0, "gene_id", [f"ENSG{k:05d}" for k in range(G)])
    with warns("annotation-passed"), pytest.raises(InputError, check=has_code("one-sample")):
        read(tmp_path, frame)
    # one of the measures for each sample is a table
    wide = table(COUNTS + 0.5, [f"s{k}.FPKM" for k in range(N)])
    assert read(tmp_path, wide).n_obs == N


def groups_of_proteins():
    """A table as MaxQuant writes it: a few columns of values among many others."""
    words = [f"P{k:05d};Q{k:05d}" for k in range(G)]
    parts = {
        "Protein IDs": words,
        "Peptide counts (all)": [f"{k};{k + 1}" for k in range(G)],
        "Fasta headers": [f">sp|a protein, {k}" for k in range(G)],
        "Number of proteins": 2,
        "Peptides": IDS % 50,
        **{f"Peptides {name}": IDS % 20 for name in SAMPLES},
        "Sequence coverage [%]": 12.5,
        **{f"Sequence coverage {name} [%]": 7.5 for name in SAMPLES},
        "Score": RNG.gamma(2, 30, G).round(2),
        **{f"Identification type {name}": "By MS/MS" for name in SAMPLES},
        **{f"LFQ intensity {name}": COUNTS[:, k] * 1000 for k, name in enumerate(SAMPLES)},
        "Only identified by site": ["+", *[None] * (G - 1)],
        "Reverse": None,
        "Potential contaminant": ["+", *[None] * (G - 1)],
        "id": range(G),
        "Oxidation (M), site IDs": words,
    }
    return pd.DataFrame(parts)


@pytest.mark.parametrize("suffix", ["tsv", "parquet"])
def test_one_of_several_measures_is_taken(tmp_path, suffix):
    """Following the advice once is enough, with one measure in the table too, and with columns in any place."""
    frame = groups_of_proteins()
    one = frame.loc[:, [name for name in frame if not name.startswith(("Peptides ", "Sequence", "Identification"))]]
    for given, code in ((frame, "several-measures"), (one, "not-a-number")):
        path = tmp_path / f"t.{suffix}"
        given.to_parquet(path) if suffix == "parquet" else given.to_csv(path, sep="\t", index=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(InputError, check=has_code(code)) as refusal:
                read_table(path, genes_in="rows")
            advised = tuple(refusal.value.message.options["annotation"].split(","))
            adata = read_table(path, genes_in="rows", options=TableOptions(annotation=advised))
        assert adata.obs_names.tolist() == [f"LFQ intensity {name}" for name in SAMPLES]
        np.testing.assert_array_equal(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X, 1000 * COUNTS.T)
        assert list(adata.var["id"]) == list(range(G))


def test_p_values_of_detection_are_passed_through(tmp_path):
    frame = table(BETA)
    for k in range(N, 0, -1):
        frame.insert(k + 1, "Detection Pval", 0.01, allow_duplicates=True)
    with warns("annotation-passed"):
        adata = read(tmp_path, frame)
    np.testing.assert_array_equal(adata.X, BETA.T)


def test_conditions_are_no_measures(tmp_path):
    names = [f"{condition}_{k}" for condition in ("signal", "liver", "total") for k in range(4)]
    assert read(tmp_path, table(BETA, names)).obs_names.tolist() == names


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("how", ["sum", "mean"])
def test_a_column_of_totals_is_no_sample(tmp_path, place, how):
    for values in (COUNTS, np.where(RNG.random(BETA.shape) < 0.1, np.nan, BETA)):
        frame = table(values)
        total = getattr(frame.drop(columns="gene"), how)(axis=1).round(4)
        frame.insert(1 if place == "first" else N + 1, "all of them", total)
        frame.insert(1, "Length", IDS)
        with warns("annotation-passed"), pytest.raises(InputError, check=has_code("sum-column")) as refusal:
            read(tmp_path, frame)
        advised = tuple(refusal.value.message.options["annotation"].split(","))
        adata = read(tmp_path, frame, annotation=advised)
        assert adata.obs_names.tolist() == SAMPLES
        assert adata.var["all of them"].astype(float).tolist() == total.tolist()


def test_series_matrix_of_geo(tmp_path):
    frame = table(BETA)
    text = '!Series_title\t"A"\n\n!Sample_title\t"a"\t"b"\n!series_matrix_table_begin\n'
    text += frame.to_csv(sep="\t", index=False) + "!series_matrix_table_end\n"
    with pytest.raises(InputError, check=has_code("series-matrix")) as refusal:
        read(tmp_path, text)
    subprocess.run(str(refusal.value).split("`")[1], shell=True, check=True)  # noqa: S602
    np.testing.assert_array_equal(read_table(tmp_path / "table_t.tsv", genes_in="rows").X, BETA.T)


def test_results_of_tests_after_the_samples_are_passed_through(tmp_path):
    limma = ["logFC", "AveExpr", "t", "P.Value", "adj.P.Val", "B"]
    deseq = ["baseMean", "log2FoldChange", "lfcSE", "stat", "pvalue", "padj"]
    for results in (limma, deseq, ["FDR"], ["mean", "sd"], ["Mean", "SEM", "Median"]):
        with warns("annotation-passed"):
            adata = read(tmp_path, table(BETA).assign(**dict.fromkeys(results, BETA[:, 0])))
        assert list(adata.var) == results
        assert adata.obs_names.tolist() == SAMPLES
    assert read(tmp_path, table(BETA, [*SAMPLES[:-2], "t", "B"])).n_obs == N


def test_a_row_of_texts_is_named_and_a_marker_is_not(tmp_path):
    frame = table(BETA.astype(object))
    frame.loc[0, SAMPLES] = ["case", "control"] * (N // 2)
    with pytest.raises(InputError, check=has_code("row-of-texts")) as refusal:
        read(tmp_path, frame)
    assert frame.loc[0, "gene"] in str(refusal.value)
    frame.loc[0, SAMPLES] = "ND"
    frame.loc[3, "s4"] = "ND"
    with pytest.raises(InputError, check=has_code("not-a-number")) as refusal:
        read(tmp_path, frame)
    assert read(tmp_path, frame, missing=(refusal.value.message.options["missing"],)).shape == (N, G)


@pytest.mark.parametrize(
    ("written", "code"),
    [("{:.1%}", "percent-sign"), ("1 {:.3f}", "not-a-number"), ("{:.1f} ng", "not-a-number"), ("12 345", "thousands")],
)
def test_values_in_another_spelling_are_no_annotation(tmp_path, written, code):
    frame = pd.DataFrame([[written.format(value) for value in row] for row in BETA], columns=SAMPLES)
    frame.insert(0, "gene", [f"g{k}" for k in range(G)])
    with pytest.raises(InputError, check=has_code(code)) as refusal:
        read(tmp_path, frame)
    assert "annotation" not in refusal.value.message.options


def test_samples_in_two_units_are_said(tmp_path):
    logs = np.log2(COUNTS + 1).round(3)
    with warns("two-units"):
        read(tmp_path, table(np.hstack([COUNTS[:, :5], logs[:, 5:]])))


def test_clinical_columns_before_one_of_words_are_passed_through(tmp_path):
    frame = pd.DataFrame(BETA.T, columns=[f"g{k}" for k in range(G)])
    frame.insert(0, "grade", ["G2", "G3"] * (N // 2))
    frame.insert(0, "sex", [0, 1] * (N // 2))
    frame.insert(0, "age", range(40, 40 + N))
    frame.insert(0, "sample", SAMPLES)
    with warns("annotation-passed"):
        adata = read(tmp_path, frame, genes_in="columns")
    assert adata.shape == (N, G)
    assert list(adata.obs) == ["age", "sex", "grade"]
