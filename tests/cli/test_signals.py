"""Signals: whenever one comes, the program cleans up, says what is true, and exits with 128 + its number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pytest

import imputome.api.impute
import imputome.core.atomic
from imputome.cli import run
from imputome.core import interrupts

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

# the program, which sends a signal to itself when it looks for its module of options
SCRIPT = """
import atexit, os, signal, sys
number, when = int(sys.argv.pop(1)), sys.argv.pop(1)

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "imputome.cli.options":
            if when == "loading":
                os.kill(os.getpid(), number)
            else:
                atexit.register(os.kill, os.getpid(), number)

sys.meta_path.insert(0, Finder())
from imputome.__main__ import main
main()
"""


def default_signals():
    # a test run in the background of a shell ignores SIGINT, and its children would too
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def program(number, when, *arguments, preexec_fn=default_signals):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, str(int(number)), when, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=preexec_fn,
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).poisson(2.0, (60, 40)).astype(np.float32)
    ad.AnnData(X).write_h5ad("in.h5ad")
    # nothing in this process is ended by a signal that `run` does not take
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def impute(output="out.h5ad", *options):
    return run(["impute", "in.h5ad", "-o", output, "--method", "gene_mean", "-q", *options])


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def send(number):
    os.kill(os.getpid(), number)


# -- the whole program -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", SIGNALS)
def test_while_the_program_is_loaded(number):
    done = program(number, "loading", "methods")
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == "error: interrupted: nothing was written [interrupted]\n"


def test_while_the_program_ends():
    done = program(signal.SIGTERM, "ending", "methods")
    assert done.returncode == 143
    assert "gene_mean" in done.stdout
    assert done.stderr == "error: interrupted: nothing was written [interrupted]\n"


def test_nohup():
    done = program(signal.SIGHUP, "loading", "methods", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert (done.returncode, done.stderr) == (0, "")


# -- a command ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", SIGNALS)
def test_while_fitting(folder, monkeypatch, capsys, number):
    monkeypatch.setattr(imputome.api.impute, "fit_run", lambda *_, **__: send(number))
    assert impute() == 128 + number
    assert capsys.readouterr().err == "error: interrupted: nothing was written [interrupted]\n"
    assert listing(folder) == ["in.h5ad"]


@pytest.mark.parametrize("number", SIGNALS)
def test_at_once_after_the_output_was_moved_into_place(folder, monkeypatch, capsys, number):
    move = imputome.core.atomic._move

    def move_and_send(*places, **how):
        move(*places, **how)
        send(number)

    monkeypatch.setattr(imputome.core.atomic, "_move", move_and_send)
    assert impute("out.h5ad", "--record", "record.json") == 128 + number
    assert capsys.readouterr().err == (
        f"error: interrupted: already written: {folder}/out.h5ad [interrupted-after-writing]\n"
    )
    assert "gene_mean" in ad.read_h5ad("out.h5ad").layers
    assert listing(folder) == ["in.h5ad", "out.h5ad"]


def test_an_older_output_is_not_what_was_written(folder, monkeypatch, capsys):
    assert impute() == 0
    monkeypatch.setattr(imputome.api.impute, "fit_run", lambda *_, **__: send(signal.SIGINT))
    assert impute("out.h5ad", "--force") == 130
    assert capsys.readouterr().err.endswith("nothing was written [interrupted]\n")


def test_further_signals_do_not_disturb_the_cleaning_up(folder, monkeypatch, capsys):
    remove = imputome.core.atomic._remove

    def remove_and_send(path):
        send(signal.SIGINT)
        send(signal.SIGTERM)
        remove(path)

    def write(*_, **__):
        (partial,) = folder.glob(".*partial*")
        assert partial.stat().st_size
        monkeypatch.setattr(imputome.core.atomic, "_remove", remove_and_send)
        send(signal.SIGINT)

    monkeypatch.setattr("imputome.io.store._stream_layers", write)
    assert impute() == 130
    assert capsys.readouterr().err == "error: interrupted: nothing was written [interrupted]\n"
    assert listing(folder) == ["in.h5ad"]


def test_a_clean_up_that_hangs_can_be_ended():
    code = (
        "import os, signal, time\n"
        "from imputome.core import interrupts\n"
        "interrupts.PATIENCE = 0.1\n"
        "with interrupts.watched():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        time.sleep(0.2)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(30)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20, preexec_fn=default_signals)
    assert (done.returncode, done.stderr) == (143, b"")


class Destroyed:
    def __del__(self):
        send(signal.SIGTERM)
        time.sleep(0)  # the exception is raised here, and dropped


def test_a_signal_that_python_drops_comes_again(folder, monkeypatch, capsys):
    def fit(*_, **__):
        Destroyed()
        time.sleep(20)

    monkeypatch.setattr(imputome.api.impute, "fit_run", fit)
    begun = time.monotonic()
    assert impute() == 143
    assert time.monotonic() - begun < 10
    assert capsys.readouterr().err == "error: interrupted: nothing was written [interrupted]\n"


def test_a_library_makes_another_error_of_a_signal(folder, monkeypatch, capsys):
    def fit(*_, **__):
        try:
            send(signal.SIGINT)
            time.sleep(20)
        except BaseException:
            raise ImportError("numpy failed to import") from None

    monkeypatch.setattr(imputome.api.impute, "fit_run", fit)
    assert impute() == 130
    assert capsys.readouterr().err == "error: interrupted: nothing was written [interrupted]\n"


def test_a_signal_waits_for_a_block_that_holds_it(folder):
    done = []

    def work():
        with interrupts.held():
            send(signal.SIGTERM)
            time.sleep(0.01)
            done.append("all of the block")
        done.append("what follows")

    with interrupts.watched() as watch, pytest.raises(KeyboardInterrupt):
        work()
    assert (done, watch.code) == (["all of the block"], 143)


def test_processes_of_the_program_leave_the_answer_to_it(folder):
    code = "import os, signal; [os.kill(os.getpid(), n) for n in (signal.SIGINT, signal.SIGHUP)]; print('still here')"
    with interrupts.answered_here():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_handlers_are_put_back(folder):
    before = [signal.getsignal(number) for number in SIGNALS]
    assert impute() == 0
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert interrupts.current is None
