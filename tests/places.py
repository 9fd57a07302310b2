"""Where the tests find files that are not in the repository."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"
