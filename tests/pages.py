"""The pages of the documentation in Markdown, and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = {"_build", "generated"}  # folders that `make docs` writes
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(path for path in (ROOT / "docs").rglob("*.md") if BUILT.isdisjoint(path.relative_to(ROOT).parts)),
    ]
)
# a comment before a block says why no test runs it
_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<reason>.+?) -->\n+ *)?```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code that is not a cell of a tutorial (`make docs` runs those)."""

    language: str
    text: str
    reason: str | None  # why it is not run
    line: int


def name_of(path: Path) -> str:
    """The path of a page in the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(each["language"], each["text"], each["reason"], text.count("\n", 0, each.start("text")) + 1)
        for each in _BLOCK.finditer(text)
    ]


def commands(path: Path) -> list[str]:
    """Every command ``imputome ...`` in the shell blocks of a page that are to be run."""
    text = "".join(block.text for block in blocks(path) if block.language in ("sh", "bash") and not block.reason)
    lines = [line.split("  #")[0].split(" #")[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("imputome ")]
