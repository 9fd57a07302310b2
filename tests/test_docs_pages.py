"""The pages of the documentation: their code runs, their commands have the options that they name, their links lead
somewhere. What the commands do is tested in tests/faults/test_bare_environment.py; `make docs` runs the tutorials."""

from __future__ import annotations

import re
import tomllib
import warnings
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer

import imputome
from pages import PAGES, ROOT, blocks, commands, name_of

# tests/test_extension.py runs the code of CONTRIBUTING
WITH_PYTHON = [
    name_of(path)
    for path in PAGES
    if path.name != "CONTRIBUTING.md" and any(block.language == "python" and not block.reason for block in blocks(path))
]
NAMED = ("CD79A", "CD74", "CD3D", "MS4A1")  # genes that the pages name


def run_python(page: str) -> None:
    """All Python of a page, from top to bottom, in one session."""
    session: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(ROOT / page):
        if block.language == "python" and not block.reason:
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), session)  # noqa: S102


@pytest.fixture
def no_pictures(monkeypatch, tmp_path):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    plt.close("all")


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs_from_top_to_bottom(page, no_pictures, monkeypatch):
    whole = imputome.datasets.pbmc68k()
    fewer = [*NAMED, *(gene for gene in whole.var_names if gene not in NAMED)][:40]
    monkeypatch.setattr(imputome.datasets, "pbmc68k", lambda: whole[:200, fewer].copy())
    run_python(page)


@pytest.mark.real
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs_on_the_data_of_the_page(page, no_pictures):
    run_python(page)


@pytest.mark.parametrize("page", [name_of(path) for path in PAGES if commands(path)])
def test_commands_have_the_options_that_pages_name(page):
    from imputome.cli import app

    group = typer.main.get_command(app)
    for line in commands(ROOT / page):
        command, arguments = group, line.split()[1:]
        while arguments and arguments[0] in getattr(command, "commands", {}):
            command = command.commands[arguments.pop(0)]
        context = command.context_class(command, info_name=line, ignore_unknown_options=False)
        command.make_parser(context).parse_args(arguments)  # an unknown option raises


def test_toml_can_be_read():
    read = [tomllib.loads(block.text) for path in PAGES for block in blocks(path) if block.language == "toml"]
    assert len(read) > 2


def test_every_block_is_tested_or_says_why_not():
    tested = {"python", "sh", "bash", "toml"}
    for path in PAGES:
        for block in blocks(path):
            assert block.language in tested or block.reason, f"{name_of(path)}:{block.line} is {block.language}"


# -- links -------------------------------------------------------------------------------------------------------------
def prose(path: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", lambda each: "x" * len(each[0]) if "](" in each[0] else each[0], text)


def anchors(path: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MyST make them."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", prose(path), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower().strip()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


@pytest.mark.parametrize("page", [name_of(path) for path in PAGES])
def test_links_inside_the_repository_lead_somewhere(page):
    path = ROOT / page
    dead = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        there = (path.parent / file).resolve() if file else path
        there = INCLUDED.get(name_of(there), there) if there.is_relative_to(ROOT) else there
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            dead.append(target)
    assert dead == []


# pages of the site that include a page of the repository
INCLUDED = {"docs/contributing.md": ROOT / "CONTRIBUTING.md", "docs/changelog.md": ROOT / "CHANGELOG.md"}
