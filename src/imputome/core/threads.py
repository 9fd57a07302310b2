"""How many threads numba, torch, and the libraries of linear algebra use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@contextmanager
def limited_threads(number: int | None) -> Iterator[None]:
    """Use ``number`` threads inside the block, None changes nothing; it holds for libraries that are loaded already.

    numba cannot use more threads than it started with (``NUMBA_NUM_THREADS``, by default all cores).
    """
    if number is None:
        yield
        return
    numba, torch = sys.modules.get("numba"), sys.modules.get("torch")
    before_numba = numba.get_num_threads() if numba else 0
    before_torch = torch.get_num_threads() if torch else 0
    with threadpool_limits(number):
        try:
            if numba:
                numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))
            if torch:  # after numba, which changes the number of torch
                torch.set_num_threads(number)
            yield
        finally:
            if numba:
                numba.set_num_threads(before_numba)
            if torch:
                torch.set_num_threads(before_torch)
