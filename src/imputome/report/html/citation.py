"""How to cite a method and imputome: entries of ``docs/references.bib`` and the text of ``CITATION.cff``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

URLS = {"doi": "https://doi.org/", "pmid": "https://pubmed.ncbi.nlm.nih.gov/"}


@dataclass(frozen=True)
class Citation:
    """What to cite.

    Attributes
    ----------
    text : str
        Authors, title, journal and year.
    link : str
        Address of the paper.
    bibtex : str
        The BibTeX entry; empty if there is none.
    """

    text: str
    link: str
    bibtex: str


def of_method(name: str) -> Citation | None:
    """The paper of a registered method; None for a control without a paper, or a method that is not registered."""
    from imputome.methods import info, names

    if name not in names() or not info(name).source:
        return None
    source = info(name).source
    kind, _, number = source.partition(":")
    text, bibtex = _papers().get((kind, number.lower()), (source, ""))
    return Citation(text, URLS[kind] + number, bibtex)


def of_imputome() -> str:
    """The text of CITATION.cff; empty if it was not installed."""
    path = _shipped("CITATION.cff")
    return path.read_text(encoding="utf-8") if path else ""


def _shipped(name: str) -> Path | None:
    """A file that an installed package has beside this module, and a clone of the repository in its own folders."""
    here = Path(__file__).resolve()
    root = here.parents[4]
    return next((path for path in (here.parent / name, root / name, root / "docs" / name) if path.is_file()), None)


@cache
def _papers() -> dict[tuple[str, str], tuple[str, str]]:
    """(``"doi"`` or ``"pmid"``, number) -> (text, BibTeX entry)."""
    import bibtexparser
    from bibtexparser import middlewares

    path = _shipped("references.bib")
    if path is None:
        return {}
    papers = {}
    steps = [middlewares.LatexDecodingMiddleware(), middlewares.SeparateCoAuthors(), middlewares.SplitNameParts()]
    for entry in bibtexparser.parse_file(str(path), append_middleware=steps).entries:
        fields = {name: field.value for name, field in entry.fields_dict.items()}
        for kind in URLS:
            if kind in fields:
                papers[kind, fields[kind].lower()] = (_in_words(fields), str(entry.raw).strip())
    return papers


def _in_words(fields: dict[str, Any]) -> str:
    """Authors, title, journal and year."""
    authors = [" ".join([*name.first, *name.von, *name.last, *name.jr]) for name in fields["author"]]
    journal = next(
        (fields[name] for name in ("journal", "booktitle", "howpublished", "publisher") if name in fields), ""
    )
    pages = fields.get("pages", "").replace("--", "-").replace("–", "-")
    volume = ":".join(part for part in (fields.get("volume"), pages) if part)
    place = ", ".join(part for part in (journal, volume, fields["year"]) if part)
    return f"{', '.join(authors) if len(authors) < 4 else f'{authors[0]} et al.'}: {fields['title']}. {place}."
