"""The peak of memory while a block runs."""

from __future__ import annotations

import time

import numpy as np
import pytest

from imputome.core.memory import peak_memory


def test_the_peak_is_seen_and_stays():
    with peak_memory(interval=0.005) as peak:
        before = peak()
        block = np.ones(200 * 2**17)  # 200 MiB
        time.sleep(0.1)
        del block
    assert 150 * 2**20 < peak() - before < 400 * 2**20


def test_it_ends_with_an_error():
    with pytest.raises(ZeroDivisionError), peak_memory() as peak:
        1 / 0  # noqa: B018
    assert peak() > 2**20
