"""One self-contained HTML file from what is to be shown: rendering and writing, no numbers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imputome.core.atomic import atomic_path
from imputome.errors import InputError, missing_extra
from imputome.report.html import charts
from imputome.report.html import vega as spec
from imputome.report.html.parts import Table, terms_table, text_of
from imputome.report.html.sections import sections

if TYPE_CHECKING:
    from imputome.report.html.content import Content
    from imputome.report.html.scoreboard import Scoreboard

SUFFIXES = (".html", ".htm")
# tone of the style sheet and sign for each verdict
VERDICTS = {"use": ("good", "✓"), "use for visualisation only": ("fair", "!"), "do not impute": ("bad", "✕")}


def write_report(path: str | Path, content: Content | Scoreboard, *, overwrite: bool = False) -> None:
    """Write the page of a result, or of a table of scores: complete, or not at all.

    Raises
    ------
    InputError
        The path does not end in .html, has no folder, or exists already and ``overwrite`` is not given.
    MissingExtraError
        What draws the page is not installed.
    """
    path = Path(path)
    check_path(path, overwrite=overwrite)
    page = render(content)
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")


def check_path(path: str | Path, *, overwrite: bool = False) -> None:
    """Refuse, before any work, a page that could not or should not be written."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is no page: end it in .html")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist: make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"the folder {path.parent} cannot be written to: choose another, or change its permissions")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: pass --force (overwrite=True) to replace it")
    check_installed()


def check_installed() -> None:
    """Refuse to begin where what draws the page is not installed."""
    spec.altair()
    _jinja()
    _vl_convert()


def render(content: Content | Scoreboard) -> str:
    """The page as text."""
    from imputome.report.html.content import Content

    environment = _jinja().Environment(
        loader=_jinja().FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=_jinja().StrictUndefined,
    )
    environment.filters["json"] = as_json
    script, style = _script(), _own("page.css")
    shared = {"script": script, "style": style, "policy": _policy(script)}
    if isinstance(content, Content):
        tone, sign = VERDICTS.get(content.verdict.verdict if content.verdict else "", ("none", "?"))
        figures = content.verdict.figures if content.verdict else {}
        told = [(name.replace("_", " "), text_of(value)) for name, value in figures.items()]
        page = environment.get_template("result.html")
        return str(
            page.render(
                content=content,
                sections=sections(content),
                figures=terms_table(told, "Figures that the rule looked at", "figure", "value"),
                tone=tone,
                sign=sign,
                **shared,
            )
        )
    failures = Table(
        "Runs that failed", ("method", "dataset", "hidden by", "trial", "reason"), content.failed, (False,) * 5
    )
    parameters = terms_table(content.parameters, "Methods that were given parameters", "method", "parameters")
    page = environment.get_template("study.html")
    return str(page.render(board=content, spec=charts.trials(), parameters=parameters, failures=failures, **shared))


def as_json(value: Any) -> Any:
    """JSON that can stand inside a script element: no text in it can end the element or begin a comment."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704


def _script() -> str:
    """The plotting library and the page's own script; nothing of it is left in the page's global names."""
    bundle = _vl_convert_bundle(".".join(spec.altair().SCHEMA_VERSION.lstrip("v").split(".")[:2]))
    text = f"(() => {{\n{bundle}\n{_own('page.js')}\n}})();"
    return text.replace("</script", "<\\/script")


def _policy(script: str) -> str:
    """A content security policy under which nothing can be fetched and no other script runs."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
    )


def _own(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


@cache
def _vl_convert_bundle(version: str) -> str:
    return str(_vl_convert().javascript_bundle("window.imputomeDraw = vegaEmbed;", vl_version=version))


def _vl_convert() -> Any:
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise missing_extra("the report", "vl-convert-python", "report") from error
    return vl_convert


def _jinja() -> Any:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise missing_extra("the report", "jinja2", "report") from error
    return jinja2
