"""``python -m imputome``."""

from imputome.cli import main

main()
