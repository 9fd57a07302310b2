"""The tables of docs/findings.md: the papers' claims and ours, from the results of the studies in docs/studies/results.

``python docs/findings.py --write`` rewrites them, ``--check`` exits 1 if one is stale, and ``--store FOLDER`` first
copies the results of each study from ``FOLDER/STUDY/results.csv``, where ``imputome study run`` left them.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from imputome.studies.claims import AUTHORS, check_claims, markdown_table, plain
from imputome.studies.figures import places
from imputome.studies.results import read, write
from imputome.studies.spec import Claim, Study, find_study, known_studies
from imputome.studies.verdicts import verdicts

DOCS = Path(__file__).resolve().parent
PAGE, RESULTS = DOCS / "findings.md", DOCS / "studies" / "results"
HEADER = ["claim", "verdict", "runs that agree", "by data set"]


def table_of_findings(study: Study, results: pd.DataFrame) -> str:
    """A row for each claim of a paper, then for each of ours, over all data sets and splits."""
    checked = check_claims(study, results)
    texts = {claim.text: claim for claim in study.claims}
    lines = []
    for by, title in AUTHORS:
        rows = [
            [f"[{plain(row['claim'])}]({_link(study, texts[row['claim']])})", *map(plain, _cells(row))]
            for row in verdicts(checked[checked["by"] == by]).to_dict("records")
        ]
        if rows:
            lines += [f"**{title}**", "", *markdown_table(HEADER, rows), ""]
    return "\n".join(lines).rstrip()


def _cells(row: dict[str, Any]) -> list[str]:
    return [row["verdict"], f"{row['agree']} of {row['n']}", row["by data set"]]


def _link(study: Study, claim: Claim) -> str:
    """To the figure of the study's page that shows the claim, else to the page."""
    for figure in study.figures:
        drawn = {name for name, _ in places(study, figure)}
        if figure.metric == claim.metric and drawn.issuperset(claim.configurations):
            return f"studies/{study.name}.md#{_anchor(figure.title)}"
    return f"studies/{study.name}.md"


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def rewritten(text: str) -> str:
    """The page with the table of each study between its marks; a mark without results is an error."""
    for name in known_studies():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        path = RESULTS / f"{name}.csv.gz"
        if begin in text:
            before, rest = text.split(begin)
            table = table_of_findings(find_study(name), read(path))
            text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="rewrite the tables")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a table is stale")
    parser.add_argument("--store", type=Path, help="folder with the results of the studies, to be copied first")
    chosen = parser.parse_args()
    if chosen.store:
        RESULTS.mkdir(parents=True, exist_ok=True)
        for name in known_studies():
            path = chosen.store / name / "results.csv"
            if path.exists():
                stored, new = RESULTS / f"{name}.csv.gz", read(path)
                if not (stored.exists() and read(stored).equals(new)):
                    write(new, stored)
    old = PAGE.read_text(encoding="utf-8")
    new = rewritten(old)
    if chosen.write:
        PAGE.write_text(new, encoding="utf-8")
    elif chosen.check and new != old:
        print(f"the tables in {PAGE.name} are stale: run python docs/findings.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
