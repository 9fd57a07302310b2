"""``python -m imputome``, and the program ``imputome``."""

import atexit
import os
import sys
from contextlib import suppress

from imputome.core import interrupts


def main() -> None:
    """Run the command line, and exit; a signal is answered in one way from here to the last instruction."""
    watch = interrupts.Watch()
    interrupts.current = watch
    code = [1]
    atexit.register(_leave, watch, code)
    try:
        watch.start()
        from imputome.cli import run

        code[0] = run(sys.argv[1:])
    except BaseException as error:
        if not watch.number:
            code[0] = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
            raise
        if not watch.told:  # the program was still being loaded
            watch.told = True
            print("error: interrupted: nothing was written [interrupted]", file=sys.stderr)
    finally:
        watch.raising = False
    sys.exit(watch.code if watch.number else code[0])


def _leave(watch: interrupts.Watch, code: list[int]) -> None:
    """Exit at once, after all other functions that are called at the end (this one was registered first).

    While Python takes itself apart, a signal would end the program with another code, although all was written.
    """
    if watch.number and not watch.told:
        from imputome.cli.console import tell_interruption

        tell_interruption()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # it can be closed, or missing
            stream.flush()
    os._exit(watch.code if watch.number else code[0])


if __name__ == "__main__":
    main()
