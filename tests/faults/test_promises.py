"""docs/reliability.md: each promise names a test, and each of these tests exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[str]:
    """The last cell of each row of the tables."""
    lines = (ROOT / "docs/reliability.md").read_text(encoding="utf-8").splitlines()
    return [line.rstrip("| ").rpartition("| ")[2] for line in lines if line.startswith("| ")]


def test_every_promise_names_a_test_that_exists():
    promises = [cell for cell in rows() if cell not in ("test", "---")]
    assert promises
    assert not [cell for cell in promises if cell != "the same" and not NAMED.search(cell)]
    for file, name in {pair for cell in promises for pair in NAMED.findall(cell)}:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"
