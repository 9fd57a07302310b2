"""The table of methods in README.md, made from the registry.

``python docs/method_table.py --write`` rewrites it, ``--check`` exits 1 if it is stale.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from imputome.core.info import MethodInfo
from imputome.methods import info
from imputome.methods.registry import METHODS

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- methods:begin -->", "<!-- methods:end -->"
COLUMNS = ("method", "what it is", "kinds", "scale", "keeps observed", "new cells", "control", "source")


def row(about: MethodInfo) -> tuple[str, ...]:
    """The cells of one method, in the order of `COLUMNS`."""
    kinds = sorted(about.kinds)
    return (
        f"`{about.name}`",
        about.summary,
        ", ".join(kinds),
        ", ".join(about.scale if kind == "counts" else "input" for kind in kinds),
        "yes" if about.keeps_observed else "no",
        about.new_rows,
        "yes" if about.control else "",
        link(about.source),
    )


def link(source: str) -> str:
    """A Markdown link to ``doi:...`` or ``pmid:...``."""
    if not source:
        return ""
    kind, _, number = source.partition(":")
    home = {"doi": "https://doi.org", "pmid": "https://pubmed.ncbi.nlm.nih.gov"}[kind]
    return f"[{number if kind == 'doi' else f'PMID {number}'}]({home}/{number})"


def table() -> str:
    """The whole table, in Markdown."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(row(info(name)) for name in METHODS)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def with_table(text: str) -> str:
    """``text`` with everything between the two markers replaced by the table."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{README.name} needs the markers {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="rewrite the table in README.md")
    action.add_argument("--check", action="store_true", help="exit 1 if the table in README.md is stale")
    wanted = parser.parse_args()

    old = README.read_text(encoding="utf-8")
    new = with_table(old)
    if wanted.write:
        README.write_text(new, encoding="utf-8")
    elif new != old:
        print("the table of methods in README.md is stale: run python docs/method_table.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
