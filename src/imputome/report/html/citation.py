"""How to cite a method and imputome: entries of ``references.bib`` and the text of ``CITATION.cff``."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

# TeX's accents and the combining characters that they are
ACCENTS = {"`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", '"': "\u0308", "c": "\u0327", "v": "\u030c"}
HOMES = {"doi": "https://doi.org/", "pmid": "https://pubmed.ncbi.nlm.nih.gov/"}


@dataclass(frozen=True)
class Citation:
    """What to cite: in words, where it is, and its BibTeX entry."""

    text: str
    link: str
    bibtex: str


def of_method(name: str) -> Citation | None:
    """The paper of a registered method; None for a plain control, or a method that this version does not know."""
    from imputome.methods import info, names

    if name not in names() or not info(name).source:
        return None
    source = info(name).source
    kind, _, number = source.partition(":")
    entry = _entry(kind, number)
    text = _in_words(entry) if entry else source
    return Citation(text, HOMES[kind] + number, entry)


def of_imputome() -> str:
    """The text of CITATION.cff; empty where it was not installed."""
    return _shipped("CITATION.cff", ".")


def _shipped(name: str, folder: str) -> str:
    """A file that an installed package has beside this module, and a clone of the repository in ``folder``."""
    here = Path(__file__).resolve().parent
    for path in (here / name, here.parents[2] / folder / name):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def _entry(kind: str, number: str) -> str:
    """The BibTeX entry with that doi or pmid; empty if there is none."""
    for entry in re.split(r"\n(?=@)", _shipped("references.bib", "docs")):
        found = _fields(entry)
        if found.get(kind, "").lower() == number.lower():
            return entry.strip()
    return ""


def _fields(entry: str) -> dict[str, str]:
    pairs = re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?\s*$", entry, re.MULTILINE)
    return {name.lower(): value for name, value in pairs}


def _in_words(entry: str) -> str:
    """Authors, title, where and when."""
    fields = {name: _plain(value) for name, value in _fields(entry).items()}
    authors = [" ".join(reversed(name.split(", ", 1))) for name in fields.get("author", "").split(" and ")]
    who = ", ".join(authors) if len(authors) < 4 else f"{authors[0]} et al."
    where = (
        fields.get("journal") or fields.get("booktitle") or fields.get("howpublished") or fields.get("publisher") or ""
    )
    pages = ":".join(part for part in (fields.get("volume"), fields.get("pages")) if part)
    place = ", ".join(part for part in (where, pages, fields.get("year")) if part)
    return f"{who}: {fields.get('title', '')}. {place}."


def _plain(tex: str) -> str:
    """TeX's braces, dashes and accents as plain text."""

    def accented(found: re.Match[str]) -> str:
        return unicodedata.normalize("NFC", found[2] + ACCENTS[found[1]])

    text = re.sub(r"\\([`'^~\"cv])\s*\{?(\w)\}?", accented, tex)
    return text.replace("{", "").replace("}", "").replace("--", "-").replace("\\&", "&")
