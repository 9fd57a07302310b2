"""How to cite a method and imputome: entries of ``docs/references.bib`` and the text of ``CITATION.cff``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from imputome.methods import info, names

URLS = {"doi": "https://doi.org/", "pmid": "https://pubmed.ncbi.nlm.nih.gov/"}


class Citation(NamedTuple):
    """What to cite."""

    text: str  # authors, title, journal and year
    link: str  # address of the paper
    bibtex: str  # the BibTeX entry; empty if there is none


def of_method(name: str) -> Citation | None:
    """The paper of a registered method; None for a control without a paper, or a method that is not registered."""
    source = info(name).source if name in names() else ""
    if not source:
        return None
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
                papers[kind, fields[kind].lower()] = (_paper_text(fields), str(entry.raw).strip())
    return papers


def _paper_text(fields: dict[str, Any]) -> str:
    """Authors, title, journal and year."""
    authors = [" ".join([*name.first, *name.von, *name.last, *name.jr]) for name in fields["author"]]
    places = ("journal", "booktitle", "howpublished", "publisher")
    journal = next((fields[name] for name in places if name in fields), "")
    pages = fields.get("pages", "").replace("--", "-").replace("–", "-")
    volume = ":".join(part for part in (fields.get("volume"), pages) if part)
    where = ", ".join(part for part in (journal, volume, fields["year"]) if part)
    return f"{', '.join(authors) if len(authors) < 4 else f'{authors[0]} et al.'}: {fields['title']}. {where}."
