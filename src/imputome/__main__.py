"""``python -m imputome``, and the program ``imputome``."""

import sys


def main() -> None:
    """Run the command line; an interruption while it is still being loaded ends it as one later does."""
    try:
        from imputome.cli import main as run
    except KeyboardInterrupt:
        print("error: interrupted: nothing was written [interrupted]", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
