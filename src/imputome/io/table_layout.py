"""What is where in a table: comment lines, the header, the names of the rows, columns that describe them, the values.

A table has names on two sides and numbers between. Beside the names of the rows there may be columns that describe
them: other names, positions, lengths. They are no samples and must not be imputed; they are passed through.
"""

from __future__ import annotations

import csv
import itertools
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import InputError, Message, some
from imputome.inspection.off_scale import MAX_LEADING, not_like_others, off_scale, sum_of_others, two_units
from imputome.inspection.summary_rows import summary_rows
from imputome.io.measures import by_measure, check_one_measure, check_several_samples, letters, matches
from imputome.io.text import comment_lines, fields, is_blank, no_header, open_text, records, separator_of, skip_lines

if TYPE_CHECKING:
    import pandas as pd

LOOKED_AT = 500  # rows that decide whether a column is text
# texts for missing values beside those that pandas knows: these words in any case, and a single blank
MISSING = [" "]
for _word in ("na", "nan", "n/a", "null"):
    MISSING += map("".join, itertools.product(*zip(_word, _word.upper(), strict=True)))
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
_WHOLE = re.compile(r"\+?(\d+)(?:\.0*)?|\+?(\d+)(?:\.(\d*))?[eE]\+?(\d{1,2})")
# Names, in lower case and without other signs than letters and digits, of columns that describe genes, probes or sites
_OF_GENES = re.compile(
    r"(hgnc|hugo|official)?(gene)?(symbols?|names?|alias)|hgnc(id)?|(entrez|ncbi|locuslink)(gene)?(ids?)?|locusid"
    r"|(ensembl|ensg|refseq|unigene|uniprot|ilmn|illumina|agilent|affy|accession)(gene|transcript|protein)?(ids?|number)?"
    r"|(gene|transcript|tx|probe|probeset|protein|feature|exon|spot|array|tracking|tss|orf|loc|clone)(ids?|names?|type)"
    r"|id|idref|ids|accession|description|definition|(gene|transcript)?biotype|classcode"
    r"|chr|chrom|chromosome(name)?|seqnames?|seqids?|contig|scaffold|cytobands?|karyotypeband|strand"
    r"|(tx|cds|gene|exon|feature|transcript|chrom|genome|probe)?(start|end|stop|begin)(position|site|bp|s)?|tss|tes"
    r"|pos|position|positions|mapinfo|coordinates?|location|loci?|locus|genomecoordinates?"
    r"|(gene|transcript|tx|exon|effective|eff|total|merged|union|coding|cds|sequence|median)?(exon)?(length|len|width|size)s?(bp|kb)?"
    r"|(number|num|n)?(of)?exons?(count|number)?|gccontent|percentgc(content)?|gcpercent|proteinids|majorityproteinids"
    r"|genenames|molweightkda|aveexpr|logfc|pvalue|adjpval(ue)?|padj"
)
# and of columns that describe cells or samples
_OF_SAMPLES = re.compile(
    r"ncounts?(rna)?|ncountrna|nfeatures?(rna)?|ngenes?(bycounts)?|numis?|totalcounts|librarysize|sizefactors?"
    r"|(percent|pct|pctcounts)(mt|mito|ribo)|batch|clusters?|seuratclusters|leiden|louvain|plate"
    r"|(patient|sample|subject|donor|cell|case|barcode|participant)?(ids?|names?|number)"
)

# of results of tests and summaries of the samples, after these too; the short ones only between others
_RESULTS = re.compile(
    r"(avg|mean)?log2?(fc|foldchange)|lfcse|mean|average|median|std(ev)?|variance|ave(rage)?expr|basemean|p(value|val)|(adj|adjusted)p(val(ue)?)?|padj"
    r"|pval(ue)?adj|fdr|qval(ue)?"
)
_SHORT_RESULTS = frozenset(("t", "b", "f", "stat", "statistic", "sd", "se", "sem", "cv", "var"))
# and beside each sample
_BESIDE = re.compile(r"detection(pval(ue)?)?|avgnbeads|bead(stderr|stdev)")


@dataclass(frozen=True)
class TableOptions:
    """How a table is to be read, where it does not say so itself.

    Attributes
    ----------
    decimal : str, default="."
        The sign before the decimals: ``"."`` or ``","``.
    missing : tuple of str, default=()
        What stands for a missing value beside empty cells, NA, NaN, N/A and null: numbers such as ``"-1"``, or texts.
    annotation : tuple of str, optional
        Columns that describe the rows and hold no values. None means: those that their name or their text gives away;
        ``("none",)`` means that there are none.
    """

    decimal: str = "."
    missing: tuple[str, ...] = ()
    annotation: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.decimal not in (".", ","):
            raise InputError(f"{{decimal}} must be '.' or ',', not {self.decimal!r}", code="decimal", decimal=...)

    @property
    def codes(self) -> list[float]:
        """The numbers that stand for a missing value."""
        return [float(text) for text in map(self._point, self.missing) if _is_float(text)]

    @property
    def markers(self) -> list[str]:
        """The texts that stand for a missing value."""
        return [text for text in self.missing if not _is_float(self._point(text))]

    def is_code(self, text: str) -> bool:
        """Whether the text of a field is one of the numbers that stand for a missing value."""
        text = self._point(text.strip('"'))
        return _is_float(text) and float(text) in self.codes

    def _point(self, text: str) -> str:
        return text.replace(",", ".") if self.decimal == "," else text


AS_IT_IS = TableOptions()


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Layout:
    """Where things are in a text table.

    Attributes
    ----------
    separator : str
    comments : int
        Lines before the header.
    header : list of str
        The names in the first line, one fewer than the columns if that of the row names is not there.
    names : list of str
        One name for each column; that of the row names may be empty.
    annotation : tuple of int
        Positions of the columns that describe the rows.
    """

    separator: str
    comments: int
    header: list[str]
    names: list[str]
    annotation: tuple[int, ...]

    @property
    def values(self) -> list[int]:
        """Positions of the columns of values."""
        return [k for k in range(1, len(self.names)) if k not in self.annotation]


def layout_of(path: Path, expected: str, *, transposed: bool, options: TableOptions = AS_IT_IS) -> Layout:
    """The layout of a text table; ``expected`` is the separator that its name promises.

    ``transposed`` says that the genes are in the rows.
    """
    separator = separator_of(path, expected, decimal=options.decimal)
    comments = comment_lines(path, separator)
    with open_text(path) as handle:
        skip_lines(handle, comments)
        # the header is read separately because pandas would rename duplicated columns
        header = next(csv.reader(handle, delimiter=separator), None)
        if not header or (len(header) == 1 and not header[0].strip()):
            raise InputError(no_header(path))
        lines = (record for record in records(handle, separator) if not is_blank(record, separator))
        rows = [fields(record, separator) or [] for record in itertools.islice(lines, LOOKED_AT)]
    width = len(rows[0]) if rows else len(header)
    # R's write.table gives the first column no name, so the header is one field shorter than the lines
    names = header if len(header) == width else ["", *header]
    columns = [[row[k].strip('"') for row in rows if k < len(row)] for k in range(width)]
    annotation: tuple[int, ...] = ()
    if len(names) == width:
        annotation = annotation_columns(names, columns, path, transposed=transposed, given=options.annotation)
    return Layout(separator, comments, header, names, annotation)


def annotation_columns(
    names: Sequence[str],
    columns: Sequence[Sequence[Any]],
    path: Path,
    *,
    transposed: bool,
    given: tuple[str, ...] | None,
) -> tuple[int, ...]:
    """Positions of the columns that describe the rows.

    Those that are ``given`` by name or by a pattern such as ``Peptides *``; else those after the first that their name
    or their text gives away, up to the first column that may hold values, and results of tests at the end or beside
    each sample.
    """
    if given is not None:
        asked = [pattern for pattern in given if pattern != "none"]
        lacking = [pattern for pattern in asked if not any(matches(name, pattern) for name in names[1:])]
        if lacking:
            text = f"{{annotation}} names the column {lacking[0]!r}, which is not there: choose among {some(names[1:])}"
            raise InputError(text, code="no-column", annotation=...)
        return tuple(k for k, name in enumerate(names) if k and any(matches(name, pattern) for pattern in asked))
    known = _OF_GENES if transposed else _OF_SAMPLES
    found = []
    for k in range(1, len(names)):
        if known.fullmatch(letters(names[k])) is None and not _is_text(columns[k]):
            break
        found.append(k)
    if not transposed:  # clinical columns: those before one of words, such as age and sex, are no features either
        words = [k for k in range(1, min(MAX_LEADING + 1, len(names))) if _is_text(columns[k])]
        found += range(len(found) + 1, max([0, *words]) + 1)
    after = _results_after(names) if transposed else []
    found += [k for k in after if k > max([0, *found])]
    if transposed:
        beside = {k for k in range(1, len(names)) if _BESIDE.fullmatch(letters(names[k]))}
        found = sorted({*found, *beside})
        others = [names[k] for k in range(1, len(names)) if k not in found]
        check_one_measure(others, [names[k] for k in found], path)
    # if nothing would be left, these are values that cannot be read; the reader says why
    return tuple(found) if len(found) < len(names) - 1 else ()


def likely_annotation(names: Sequence[str]) -> list[str]:
    """Names, anywhere in a table with the genes in its rows, of columns that seem to hold no values of a sample."""
    measures = by_measure(names)
    samples = set(names)
    if len(measures) == 1:
        (columns,) = measures.values()
        samples = set(columns.values()) if len(columns) > max(2, len(names) / 4) else samples
    return [name for name in names if name not in samples or _OF_GENES.fullmatch(letters(name))]


def _results_after(names: Sequence[str]) -> list[int]:
    """Positions of the last columns if they are results of tests (log fold changes, p values), by name."""
    first = last = len(names)
    for k in range(len(names) - 1, 0, -1):
        word = letters(names[k])
        if _RESULTS.fullmatch(word):
            first = k
        elif word not in _SHORT_RESULTS:
            break
    return list(range(first, last))


def _is_text(column: Sequence[Any]) -> bool:
    """Whether a column holds words, and not numbers in another spelling or one word for a missing value."""
    texts = [str(text).strip() for text in column]
    texts = [text for text in texts if text and text not in MISSING]
    words = {text for text in texts if not _is_float(text) and re.search(r"[^\W\d_]", text)}
    return len(words) > 1 and sum(text in words for text in texts) >= 0.95 * len(texts)


def warn_of_annotation(names: Iterable[str], path: Path, *, transposed: bool) -> None:
    """Say which columns are passed through."""
    names = list(names)
    if names:
        rows = "genes" if transposed else "samples"
        what = "1 column describes" if len(names) == 1 else f"{len(names)} columns describe"
        text = f"{what} the {rows} of {path}: passed through and not imputed ({some(names)})"
        message = Message(
            f"{text}: pass {{annotation}} if they hold values", code="annotation-passed", annotation="none"
        )
        warnings.warn(message, stacklevel=4)


def check_samples(
    X: Any, names: Sequence[str], described: Iterable[str], path: Path, *, transposed: bool, options: TableOptions
) -> None:
    """Refuse a first column that is no sample, and warn of samples far off the scale of all others.

    ``X`` is samples x genes; the columns ``described`` are not in it. Only where the samples are the columns can a
    column among them be none.
    """
    if transposed:
        check_several_samples(names, path)
    strange = not_like_others(X) if transposed and options.annotation is None else []
    if strange:
        recognised = list(described)
        columns = ",".join(names[k] for k in strange)
        what = f"column {names[strange[0]]!r} of {path} is" if len(strange) == 1 else f"columns {columns} of {path} are"
        values = some((f"{value:g}" for value in _first_values(X, strange[0])), 3)
        otherwise = "leave its name out there" if recognised else "pass the word none there instead"
        text = (
            f"{what} not like the other columns ({values}): if it holds identifiers, lengths or positions, pass "
            f"{{annotation}}; if it is a sample, {otherwise}"
        )
        raise InputError(text, code="annotation-column", annotation=",".join([*recognised, columns]))
    total = sum_of_others(X) if transposed and options.annotation is None else None
    if total is not None:
        text = (
            f"column {names[total]!r} of {path} is the sum or the mean of all others, and no sample: pass "
            "{annotation} to leave it as it is, or the word none there to take it as a sample"
        )
        raise InputError(text, code="sum-column", annotation=",".join([*described, names[total]]))
    far = off_scale(X)
    if far:
        named = (f"{names[k]} about {ratio:.2g} times" for k, ratio in far.items())
        what = "1 sample" if len(far) == 1 else f"{len(far)} samples"
        text = f"{what} of {path} far off the scale of all others ({some(named, 3)})"
        message = Message(f"{text}: are they samples, in the same unit?", code="sample-off-scale")
        warnings.warn(message, stacklevel=4)
        return
    others, factor = two_units(X)
    if others:
        text = (
            f"{len(others)} samples of {path} ({some((names[k] for k in others), 3)}) are about {factor:.2g} times the "
        )
        message = Message(f"{text}others: are all in the same unit, logged or not?", code="two-units")
        warnings.warn(message, stacklevel=4)


def _first_values(X: Any, row: int) -> np.ndarray:
    values = X[[row]]
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values).ravel()[:4]


def frame_of_annotation(names: Sequence[str], columns: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """The columns that describe the rows, whole numbers as integers, names as AnnData can hold them."""
    import pandas as pd

    frame = pd.DataFrame()
    for name, texts in zip(names, columns, strict=True):
        key = name.replace("/", "_").strip() or "annotation"
        while key in frame or key == "_index":
            key += "_"
        plain = [whole_number(str(text)) for text in texts]
        # a leading zero belongs to an identifier
        if all(re.fullmatch(r"0|[1-9]\d{0,17}", text) for text in plain):
            frame[key] = np.array([int(text) for text in plain])
        else:
            frame[key] = np.array([str(text) for text in texts], dtype=object)
    return frame


# -- whole numbers as text ---------------------------------------------------------------------------------------------
def whole_number(text: str) -> str:
    """A whole number without a point or an exponent: R and spreadsheets write 100000 as ``1e+05`` or ``100000.0``.

    Other texts are returned as they are.

    Examples
    --------
    >>> from imputome.io.table_layout import whole_number
    >>> [whole_number(text) for text in ("1e+05", "99990.0", "2.5E6", "007", "chr1", "1.5")]
    ['100000', '99990', '2500000', '007', 'chr1', '1.5']
    """
    match = _WHOLE.fullmatch(text.strip())
    if match is None:
        return text
    if match[1] is not None:
        return match[1]
    decimals, exponent = (match[3] or "").rstrip("0"), int(match[4])
    if exponent < len(decimals):
        return text
    return str(int(match[2] + decimals) * 10 ** (exponent - len(decimals)))


def whole_names(names: list[str]) -> list[str]:
    """Names that are all whole numbers, some of them with an exponent, without it; any other names as they are."""
    if not any("e" in name or "E" in name or name.endswith(".0") for name in names):
        return names
    plain = [whole_number(name) for name in names]
    whole = all(name.isdecimal() for name in plain) and any(name == old for name, old in zip(plain, names, strict=True))
    return plain if whole else names


# -- names that look like values ---------------------------------------------------------------------------------------
_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_PLAIN = re.compile(r"\d+\.\d{1,2}|\d+")  # as in 1.1, which may be the name of a sample
_CORNERS = re.compile(r"|.*(id|name|symbol|gene|probe|feature|sample|cell|index|barcode|patient|site|protein)s?.*")


def are_values(names: Sequence[str], corner: str, others: Sequence[str], values: np.ndarray) -> bool:
    """Whether names are in truth values: a line or column of values stands where the names should be.

    Most of them are numbers with a point or an exponent. Samples may be called 1.1 and 1.2: then all names differ and
    are short, and the ``corner`` before them is a word for names and unlike the names of the ``others`` side, or the
    ``values`` of the table are unlike.
    """
    present = [name.strip() for name in names if name.strip() and name not in MISSING]
    if 2 * sum(_DECIMAL.fullmatch(name) is not None for name in present) <= len(present):
        return False
    if len(set(present)) < len(names) or any(_PLAIN.fullmatch(name) is None for name in present):
        return True
    if _CORNERS.fullmatch(corner.strip().lower()):
        return False
    if _shape(corner) in {_shape(name) for name in others[:LOOKED_AT]}:
        return True
    known = values[np.isfinite(values)]
    short = np.abs(known * 100 - np.rint(known * 100)) < 1e-6
    # values with one or two decimals are what the names could be too; integers and longer decimals are not
    return bool((short & (known != np.rint(known))).mean() > 0.1) if len(known) else True


def are_counts(names: Sequence[str], corner: str, others: Sequence[str]) -> bool:
    """Whether a header of whole numbers is in truth a line of counts: what stands before them is the name of a gene.

    It is the name of a summary row, or it has the form of the names in the other lines, and no word for names or
    numbers that repeat. Samples may be called 1, 2 and 3.
    """
    if not all(re.fullmatch(r"\s*\d+\s*", name) for name in names):
        return False
    if summary_rows([corner])[0]:
        return True
    shape = _shape(corner)
    like = {"a", "0"} <= set(shape) and shape in {_shape(name) for name in others[:LOOKED_AT]}
    return like and (len(set(names)) < len(names) or _CORNERS.fullmatch(corner.strip().lower()) is None)


def _shape(text: str) -> str:
    return re.sub(r"[0-9]+", "0", re.sub(r"[A-Za-z]", "a", text.strip()))
