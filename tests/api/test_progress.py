"""Progress: shares only where the amount of work is known, and in Python too, on terminals and in notebooks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

import imputome
from imputome.api import progress as module
from imputome.api.progress import progress

SCRIPT = """
import imputome
adata = imputome.datasets.pbmc68k()[:150, :60].copy()
imputome.impute(adata, method={method!r}{more})
"""


def on_a_terminal(method, more="", script=SCRIPT):
    """What the script prints on a terminal, without colours."""
    leader, follower = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    for name in ("NO_COLOR", "CI"):
        environment.pop(name, None)
    line = [sys.executable, "-W", "ignore", "-c", script.format(method=method, more=more)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=follower, env=environment)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    assert process.communicate(timeout=100)[0] == b""
    assert process.returncode == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())


def test_python_shows_progress_on_a_terminal():
    shown = on_a_terminal("auto", ", accept_control=True, check=False, budget=0.1")
    assert "choosing a method" in shown
    assert "fitting" in shown
    assert on_a_terminal("gene_mean", ", progress=False") == ""


def test_names_are_shown_as_they_are_and_act_on_no_terminal():
    script = "from imputome.api.progress import progress\n"
    script += "with progress('[/red]{method}') as show: show(0.5, '[/x]{more}')"
    shown = on_a_terminal("a\\x1b]0;owned\\x07", "b\\x9b", script)
    assert r"[/red]a\x1b]0;owned\x07" in shown
    assert r"[/x]b\x9b" in shown
    assert not {"\x07", "\x9b"} & set(shown)


def test_a_fit_has_no_percentage_and_a_check_has():
    assert "%" not in on_a_terminal("gene_mean")
    assert re.search(r"checking .*\d %", on_a_terminal("gene_mean", ", check=True"))


def test_python_is_silent_elsewhere_unless_asked(capsys):
    adata = imputome.datasets.pbmc68k()[:50, :20].copy()
    imputome.impute(adata, method="gene_mean")
    assert capsys.readouterr() == ("", "")
    imputome.impute(adata, method="gene_mean", key_added="again", progress=True)
    assert capsys.readouterr() == ("", "fitting gene_mean ...\n")


def test_plain_lines_give_a_share_only_where_it_is_known(capsys, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    now = iter([0.0, 42.0, 0.0, 42.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    for counted in (True, False):
        with progress("work", counted=counted) as show:
            show(0.0, "begun")
            show(0.15, "step 3")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "step 3" in line] == ["work: 15% step 3", "work: step 3, 42 s"]


def test_a_notebook_is_live(monkeypatch):
    pytest.importorskip("rich")
    assert not module.is_live()
    monkeypatch.setitem(sys.modules, "IPython", object())
    import rich.console

    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    assert module.is_live()


def test_a_network_says_its_epoch_the_best_and_no_share():
    pytest.importorskip("torch")
    estimator = imputome.methods.create("zipo", {"max_epochs": 4, "encoder": "8"})
    said = []
    estimator.progress = lambda share, text: said.append(text)
    status = estimator.fit_transform(imputome.datasets.pbmc68k()[:100, :30].X).status
    assert len(said) == status.details["epochs"] == 4
    last = re.fullmatch(r"epoch 4 of at most 4, loss (\S+), best (\S+) in epoch (\d)", said[-1])
    assert int(last[3]) == status.details["best_epoch"]
    assert float(last[2]) == pytest.approx(status.details["validation_loss"], rel=1e-4)
