"""What a method says of itself, read from the docstring of its class: `describe`.

The code of a method of this package is parsed, not imported, so that a method can be described whose optional
dependency is not installed.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from inspect import cleandoc, getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from imputome.methods import get, info
from imputome.methods.registry import METHODS

if TYPE_CHECKING:
    from imputome.core.info import NewRows

CostClass = Literal["seconds", "minutes", "hours"]
# what a cost class is for, on two cores; measured in docs/comparison.md as far as it was
COST_SIZE = "2,700 cells x 11,000 genes of counts, or 900 samples x 1,200 features of real values, on two cores"

NEW_CELLS: dict[NewRows, str] = {
    "exact": "a new cell is imputed as the training cells were, with nothing approximated.",
    "projection": "a new cell is fitted to the factors or coefficients that were learned, which stay as they are.",
    "neighbors": "a new cell is imputed from the training cells most like it, which the saved model holds.",
    "none": "new cells cannot be imputed: fit again with them.",
}

POSTERIOR_STEP = (
    "The posterior step (name+posterior, or the parameter posterior) combines the rate of a method with the cell's own "
    "counts. With the rate m, the count x and a shape phi, the value is m (phi + x) / (phi + m): between the rate and "
    "the count, nearer to the count the more molecules there are and the smaller phi is. phi is found for each gene on "
    "molecules that are held out, for which the method is applied to up to ten splits of the counts. The step adds the "
    "outputs variance, lower and upper (90 % intervals). It is for integer counts. Source: Huang et al. 2018 (SAVER), "
    "with the rate of any method as its prior."
)

_LABELS = re.compile(
    r"(?:(?<=^)|(?<=[.;)`] ))(Cost|Known to fail|New rows|Scale|Outputs|Source|References|Measured|Draws)(?=[:,])"
)
_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
_PARAMETER = re.compile(r"^(\w[\w, ]*?)(?: : (.*))?$")
_DEFAULT = re.compile(r",? default=(.*)$")
_AS_IN = re.compile(r"^As in `(\w+)`")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method; ``type`` is as the docstring has it."""

    name: str
    type: str
    default: str
    text: str

    @property
    def value(self) -> Any:
        """The default as a value; as text if it is no literal."""
        try:
            return ast.literal_eval(self.default)
        except (ValueError, SyntaxError):
            return self.default


@dataclass(frozen=True)
class Description:
    """What a method says of itself; a part that its docstring lacks is empty.

    Attributes
    ----------
    does : tuple of str
        Paragraphs on what it does.
    parameters : tuple of Parameter
        Its parameters.
    cost_class : str
        ``"seconds"``, ``"minutes"`` or ``"hours"``, for data of the size `COST_SIZE`.
    cost, fails, new_cells : str
        What it costs, where it is known to fail, and what it does with cells that it was not fitted to.
    """

    does: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    cost_class: str
    cost: str
    fails: str
    new_cells: str


def describe(name: str) -> Description:
    """What a registered method says of itself.

    Parameters
    ----------
    name : str
        A registered name.

    Returns
    -------
    Description

    Raises
    ------
    InputError
        As `imputome.methods.get`.

    Examples
    --------
    >>> from imputome.cli.description import describe
    >>> describe("knn").cost_class
    'seconds'
    """
    if name in METHODS:
        module, _, cls_name = METHODS[name][1].partition(":")
        classes, constants = _parsed(module)
        text, defaults = _docstring(classes, cls_name), _defaults(classes, cls_name)
        defaults = {each: constants.get(default, default) for each, default in defaults.items()}
    else:
        cls = get(name)
        text = cleandoc(getdoc(cls) or "")
        defaults = {each: repr(value) for each, value in cls.parameter_defaults().items()}
    sections = _sections(text)
    labelled = _labelled("\n\n".join([sections[""], sections.get("Notes", "")]))
    cost = labelled.get("Cost", "")
    cost_class, _, rest = cost.partition("; ")
    if cost_class not in get_args(CostClass):  # of another package
        cost_class, rest = "", cost
    new_cells = NEW_CELLS[info(name).new_rows]
    own = f"New rows: {labelled['New rows']}" if "New rows" in labelled else _on_new_cells(sections)
    return Description(
        does=tuple(" ".join(part.split()) for part in _paragraphs(sections[""])),
        parameters=_parameters(sections.get("Parameters", ""), defaults),
        cost_class=cost_class,
        cost=rest,
        fails=labelled.get("Known to fail", ""),
        new_cells=f"{new_cells} {own}".strip(),
    )


def plain(text: str) -> str:
    """Text of a docstring without its marks for code and emphasis."""
    text = re.sub(r"``([^`]*)``", r"\1", text)
    text = re.sub(r"`([^`]*)`", r"\1", text)
    return re.sub(r"(?<![\w*])\*(\S(?:[^*]*\S)?)\*(?![\w*])", r"\1", text)


# -- the parts of a docstring ------------------------------------------------------------------------------------------
def _sections(text: str) -> dict[str, str]:
    """The sections by title; what comes before the first has the title ``""``."""
    parts = _SECTION.split(text)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def _paragraphs(text: str) -> list[str]:
    """Paragraphs, each item of a numbered list being one."""
    text = re.sub(r"\n(?=\d+\. )", "\n\n", text)
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part]


def _labelled(text: str) -> dict[str, str]:
    """The statements that labels begin, such as ``Cost: ...``, each up to the next label or the end of a paragraph."""
    found: dict[str, str] = {}
    for paragraph in _paragraphs(text):
        pieces = _LABELS.split(" ".join(paragraph.split()))
        for label, statement in zip(pieces[1::2], pieces[2::2], strict=True):
            found.setdefault(label, statement.lstrip(":, ").strip())
    return found


def _on_new_cells(sections: dict[str, str]) -> str:
    """What the docstring says of new cells: the end of a paragraph, from the sentence that begins with them."""
    for paragraph in _paragraphs(f"{sections['']}\n\n{sections.get('Notes', '')}"):
        flat = " ".join(paragraph.split())
        if match := re.search(r"(?:^|(?<=\. ))(?:A new (?:cell|row|sample)|New (?:cells|rows|samples)) .*", flat):
            return match[0]
    return ""


def _parameters(text: str, defaults: dict[str, str]) -> tuple[Parameter, ...]:
    """The parameters in the order of the docstring, then those that it leaves out."""
    found: dict[str, Parameter] = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        head, _, body = block.partition("\n")
        match = _PARAMETER.match(head.strip())
        if match is None:
            continue
        told = " ".join(body.split())
        kind = _DEFAULT.sub("", match[2] or "")
        for name in match[1].split(", "):
            if name in defaults:
                found[name] = Parameter(name, kind, defaults[name], told)
    for name, each in found.items():
        like = _AS_IN.match(each.text)
        if like and not each.type and (same := _of_class(like[1]).get(name)):
            found[name] = replace(each, type=same.type, text=same.text)
    rest = tuple(Parameter(name, "", default, "") for name, default in defaults.items() if name not in found)
    return (*found.values(), *rest)


def _of_class(cls_name: str) -> dict[str, Parameter]:
    """The parameters of the method of this package whose class has this name."""
    for name, (_, place) in METHODS.items():
        if place.endswith(f":{cls_name}"):
            return {each.name: each for each in describe(name).parameters}
    return {}


# -- the code of a class -----------------------------------------------------------------------------------------------
@cache
def _parsed(module: str) -> tuple[dict[str, ast.ClassDef], dict[str, str]]:
    """The classes of a module below imputome.methods, parsed, and its constants as they are written; both by name."""
    spec = find_spec(f"imputome.methods.{module}")  # imports the folder of the method, which imports nothing heavy
    if spec is None or spec.origin is None:
        return {}, {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return classes, {node.targets[0].id: ast.unparse(node.value) for node in assigned}  # type: ignore[attr-defined]


def _bases(classes: dict[str, ast.ClassDef], name: str) -> list[ast.ClassDef]:
    """A class and its bases in the same module, the class first."""
    if name not in classes:
        return []
    parents = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    return [classes[name], *(each for parent in parents for each in _bases(classes, parent))]


def _docstring(classes: dict[str, ast.ClassDef], name: str) -> str:
    """The docstring; sections that it lacks, such as Parameters, are those of its base."""
    own, *others = [ast.get_docstring(each) or "" for each in _bases(classes, name)]
    for other in others:
        sections = _sections(other)
        if "Parameters" in sections and "Parameters" not in _sections(own):
            own += f"\n\nParameters\n----------\n{sections['Parameters']}"
    return own


def _defaults(classes: dict[str, ast.ClassDef], name: str) -> dict[str, str]:
    """The parameters and their defaults, as they are written; those of the bases come first."""
    chain = _bases(classes, name)
    for each in chain:
        if constructor := next((node for node in each.body if getattr(node, "name", "") == "__init__"), None):
            return _defaults_of_function(constructor)
    found: dict[str, str] = {}
    for each in reversed(chain):
        for node in each.body:
            # a constant of the class has no annotation, or is a ClassVar
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                default = ast.unparse(node.value)
                if "ClassVar" not in ast.unparse(node.annotation) and "init=False" not in default:
                    found[node.target.id] = default
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found.pop(node.targets[0].id, None)  # fixed by this class, and no parameter of it
    return found


def _defaults_of_function(function: Any) -> dict[str, str]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return {argument.arg: ast.unparse(default) for argument, default in pairs if default is not None}
