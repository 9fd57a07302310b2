"""The table of methods in README.md, made from the registry; docs/methods.md, made from the docstrings of the methods;
and docs/metrics.md, made from the glossary of scores.

``python docs/method_table.py --write`` rewrites them, ``--check`` exits 1 if one is stale.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from imputome.cli.description import COST_SIZE, NEW_CELLS, POSTERIOR_STEP, describe
from imputome.core.info import MethodInfo
from imputome.evaluation.glossary import DECIDING, entries
from imputome.methods import info
from imputome.methods.registry import METHODS

README = Path(__file__).resolve().parents[1] / "README.md"
METHODS_PAGE, METRICS_PAGE = README.parent / "docs" / "methods.md", README.parent / "docs" / "metrics.md"
BEGIN, END = "<!-- methods:begin -->", "<!-- methods:end -->"
COLUMNS = ("method", "what it is", "kinds", "scale", "keeps observed", "new cells", "control", "source")
IN_README = 3  # the first columns


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


def table(columns: int = len(COLUMNS)) -> str:
    """The table in Markdown, with its first columns."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(row(info(name)) for name in METHODS)]
    return "\n".join("| " + " | ".join(cells[:columns]) + " |" for cells in rows)


def with_table(text: str) -> str:
    """``text`` with everything between the two markers replaced by the table."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{README.name} needs the markers {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table(IN_README)}\n{END}{after}"


def methods_page() -> str:
    """docs/methods.md: each method with its parameters, cost, limits, and what it does with new cells."""
    lines = ["# Methods", ""]
    text = "What `imputome methods NAME` prints, for all methods; made from the docstrings of their classes by "
    lines += [wrapped(f"{text}`docs/method_table.py`. A name ends in `+posterior` for the posterior step."), ""]
    lines += [wrapped(f"*Cost* is for {COST_SIZE}, and was measured in part ([comparison.md](comparison.md))."), ""]
    lines += [table(), ""]
    text = (
        "*Scale*: `counts` is the cell's own depth, `input` the unit of the input. *Keeps observed*: whether observed "
    )
    text += "values come back as they are unless asked otherwise. `saver` ends in a posterior step of its own; with "
    lines += [wrapped(f"{text}`--posterior` ours takes its place."), ""]
    lines += ["*New cells*, what a fitted model does with cells that it has not seen:", ""]
    lines += [wrapped(f"- `{name}`: {text}", "  ") for name, text in NEW_CELLS.items()]
    lines += ["", "## The posterior step", "", wrapped(POSTERIOR_STEP)]
    for name in METHODS:
        about, described = info(name), describe(name)
        lines += ["", f"## {name}", ""]
        kinds = " and ".join(sorted(about.kinds))
        needs = f"; needs `imputome[{about.extra}]`" if about.extra else ""
        source = f"; {link(about.source)}" if about.source else ""
        lines.append(f"For {kinds}{'; a control' if about.control else ''}{needs}{source}.")
        lines += [f"\n{wrapped(paragraph, '   ' if paragraph[:1].isdigit() else '')}" for paragraph in described.does]
        if described.parameters:
            lines.append("")
        for each in described.parameters:
            kind = each.type.replace("*", "\\*")
            lines.append(wrapped(f"- `{each.name}` ({kind}; default `{each.default}`): {each.text}", "  "))
        lines += ["", wrapped(f"**Cost:** {described.cost_class}; {described.cost}")]
        lines += ["", wrapped(f"**Known to fail:** {described.fails}")]
        lines += ["", wrapped(f"**New cells:** {about.new_rows}; {described.new_cells}")]
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """docs/metrics.md: each score, which way is better, its range, and where it misleads."""
    lines = ["# Scores", ""]
    text = "The scores of `imputome evaluate` and `imputome score`, as `imputome methods --metrics` prints them; made "
    text += f"by `docs/method_table.py`. `{DECIDING[0]}` decides for counts, `{DECIDING[1]}` for real values."
    lines += [wrapped(text), ""]
    rows = [("score", "what it is", "best", "range", "where it misleads"), ("---",) * 5]
    rows += [(f"`{each.name}`", each.what, each.better, each.range, each.misleads) for each in entries()]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)]) + "\n"


def wrapped(text: str, indent: str = "") -> str:
    """Text in lines of up to 124 characters."""
    return textwrap.fill(text, 124, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="rewrite the table in README.md, and the pages")
    action.add_argument("--check", action="store_true", help="exit 1 if the table or a page is stale")
    wanted = parser.parse_args()

    readme = README.read_text(encoding="utf-8")
    stale = []
    for path, new in ((README, with_table(readme)), (METHODS_PAGE, methods_page()), (METRICS_PAGE, metrics_page())):
        if path.exists() and path.read_text(encoding="utf-8") == new:
            continue
        if wanted.write:
            path.write_text(new, encoding="utf-8")
        else:
            stale.append(path.name)
    if stale:
        print(f"stale: {', '.join(stale)}: run python docs/method_table.py --write", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
