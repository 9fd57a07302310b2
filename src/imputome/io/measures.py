"""Measures of one sample in several columns, as RSEM, salmon, MaxQuant, FragPipe and BeadStudio write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from imputome.errors import InputError, some

# Names of measures, in lower case and without other signs than letters and digits: those that a quantifier gives for
# one sample,
_OF_ONE_SAMPLE = re.compile(
    r"(expected|est|posteriormean|read|raw)?counts?|numreads|isopct|coverage|posteriorstandarddeviationofcount"
    r"|(pme)?(tpm|fpkm|rpkm|cpm)((ci|conf)(lo|hi|lowerbound|upperbound)|coefficientofquartilevariation)?"
)
# and those before or after the name of a sample
_WITH_SAMPLE = re.compile(
    rf"{_OF_ONE_SAMPLE.pattern}|(eff|effective)?length|conf(lo|hi)|norm(alized)?counts?"
    r"|((max)?lfq(unique|total)?)?(unique|total)?intensity|ibaq|(pg)?(quantity|maxlfq)|abundances?(normalized|scaled)?"
    r"|(razor|unique|razorunique)?peptides|(unique|uniquerazor)?sequencecoverage|msmscounts?|identificationtype"
    r"|(unique|total)?spectral(count|counts)|(avg|raw)?signal|detection(pval|pvalue)?|avgnbeads|bead(stderr|stdev)"
)
_PREFERRED = ("lfq", "quantity", "signal", "abundance", "intensity", "count", "tpm", "fpkm")
_SEPARATOR = re.compile(r"[\s._:]+")


def letters(name: str) -> str:
    """A name in lower case, without other signs than letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def by_measure(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Measure, with * for the sample -> sample -> name of the column; only measures of two samples or more.

    Examples
    --------
    >>> from imputome.io.measures import by_measure
    >>> by_measure(["LFQ intensity a", "LFQ intensity b", "Score", "a.TPM"])
    {'LFQ intensity *': {'a': 'LFQ intensity a', 'b': 'LFQ intensity b'}}
    """
    found: dict[str, dict[str, str]] = {}
    for name in names:
        measure, sample = _split(name)
        if measure:
            found.setdefault(measure, {})[sample] = name
    return {measure: columns for measure, columns in found.items() if len(columns) > 1}


def _split(name: str) -> tuple[str, str]:
    """The longest known measure that a name begins or ends with, and the sample; empty if there is none."""
    marks = list(_SEPARATOR.finditer(name))
    for mark in reversed(marks):
        if _WITH_SAMPLE.fullmatch(letters(name[: mark.start()])):
            return f"{name[: mark.end()]}*", name[mark.end() :]
    for mark in marks:
        if _WITH_SAMPLE.fullmatch(letters(name[mark.end() :])):
            return f"*{name[mark.start() :]}", name[: mark.start()]
    return "", ""


def matches(name: str, pattern: str) -> bool:
    """Whether a name is that of a pattern, in which * stands for any text."""
    return name == pattern or re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


def check_several_samples(names: Sequence[str], path: Path) -> None:
    """Check that the columns are not several measures of one sample."""
    if len(names) > 1 and all(_OF_ONE_SAMPLE.fullmatch(letters(name)) for name in names):
        text = (
            f"{path} holds one sample, and its columns ({some(names)}) are measures of this sample in different units: "
            f"make a table that has one of these columns from the file of each sample"
        )
        raise InputError(text, code="one-sample")


def check_one_measure(names: Sequence[str], described: Iterable[str], path: Path) -> None:
    """Check that the columns are not several measures of each sample; the columns ``described`` are not among them."""
    found = by_measure(names)
    if not any(len(found[a].keys() & found[b].keys()) > 1 for a in found for b in found if a != b):
        return
    rank = {word: place for place, word in enumerate(_PREFERRED)}
    chosen = min(found, key=lambda each: min((rank[word] for word in rank if word in letters(each)), default=len(rank)))
    taken = found.pop(chosen).values()
    patterns = [each for each in found if not any(matches(name, each) for name in taken)]
    others = [name for name in names if name not in taken and not any(matches(name, each) for each in patterns)]
    text = (
        f"{path} holds several measures of each sample ({some([chosen, *found])}): pass {{annotation}} to take "
        f"{chosen!r} and leave all other columns as they are, or the word none there if all hold samples"
    )
    annotation = [each.replace(",", "*") for each in (*described, *others, *patterns)]
    raise InputError(text, code="several-measures", annotation=",".join(annotation))
