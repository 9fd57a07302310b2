"""Render the content of a page and write it as one self-contained HTML file; no numbers are computed here."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from imputome.core.atomic import atomic_path, check_file
from imputome.errors import missing_extra
from imputome.report.html.content import Content
from imputome.report.html.parts import sentence
from imputome.report.html.scoreboard import Scoreboard
from imputome.studies.claims import LEGEND, PUBLISHED_LEGEND
from imputome.studies.searches import LEGEND as SEARCH_LEGEND
from imputome.studies.verdicts import VERDICT_LEGEND

# module -> package of the extra `report`
PACKAGES = {"altair": "altair", "bibtexparser": "bibtexparser", "jinja2": "jinja2", "vl_convert": "vl-convert-python"}
HERE = Path(__file__).parent


def write_report(path: str | Path, content: Content | Scoreboard, *, overwrite: bool = False) -> None:
    """Write the page of a result, or of a table of scores, to a .html file. A page that fails leaves no file behind."""
    check_path(path, overwrite=overwrite)
    page = render(content)
    with atomic_path(path, overwrite=overwrite) as partial:
        partial.write_text(page, encoding="utf-8")


def check_path(path: str | Path, *, overwrite: bool = False) -> None:
    """Check, before any computation, that a page can be written to ``path``."""
    check_file(Path(path), (".html", ".htm"), "page", overwrite=overwrite)
    check_installed()


def check_installed() -> None:
    """Check that the packages of the extra ``report`` are installed."""
    for module, package in PACKAGES.items():
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise missing_extra("the report", package, "report") from error


def render(content: Content | Scoreboard) -> str:
    """The page as text."""
    check_installed()
    import jinja2

    from imputome.report.html import charts
    from imputome.report.html.sections import result_parts

    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.filters |= {"json": _as_json, "sentence": sentence}
    if isinstance(content, Content):
        template, values = "result.html", result_parts(content)
    else:
        template, values = (
            "study.html",
            {
                **{"board": content, "spec": charts.trials()},
                **{
                    "legend": LEGEND,
                    "verdict_legend": VERDICT_LEGEND,
                    "published_legend": PUBLISHED_LEGEND,
                    "search_legend": SEARCH_LEGEND,
                },
            },
        )
    script = _script()
    style = (HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # nothing can be fetched, and no other script runs
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
    policy += "img-src data:; base-uri 'none'"
    return environment.get_template(template).render(script=script, style=style, policy=policy, **values)


def _as_json(value: Any) -> Any:
    """JSON for a script element: no text in it can end the element or begin a comment."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704


def _script() -> str:
    """The plotting library and the page's own script, in a function, so that they leave no global names."""
    import altair

    version = ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    page_script = (HERE / "page.js").read_text(encoding="utf-8")
    text = f"(() => {{\n{_plotting_library(version)}\n{page_script}\n}})();"
    return text.replace("</script", "<\\/script")


@cache
def _plotting_library(version: str) -> str:
    import vl_convert

    return str(vl_convert.javascript_bundle("window.imputomeDraw = vegaEmbed;", vl_version=version))
