"""Settings of a study that can be checked before there is data: shares to hide, analyses, protocol, transform."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imputome.core.links import link as link_of
from imputome.errors import InputError
from imputome.evaluation import open_problems
from imputome.evaluation.arguments import check_choice, check_share
from imputome.evaluation.downstream import ANALYSES
from imputome.evaluation.metrics import OPEN_PROBLEMS
from imputome.evaluation.splits import UNMASKED, scheme_options

DOWNSTREAM = tuple(ANALYSES)
# protocol -> what it adds to the name of the scheme in tables of results
PROTOCOLS = {"honest": "", "as_published": " (leaky)", OPEN_PROBLEMS: f" ({OPEN_PROBLEMS})"}


def check_settings(
    scheme: str,
    fraction: float | Sequence[float] | None = None,
    downstream: Iterable[str] = (),
    protocol: str = "honest",
    transform: str | None = None,
) -> list[float | None]:
    """Check the settings of `run_study` that need no data; returns the shares to hide, None if there is no choice."""
    known = scheme_options(scheme)
    if fraction is None:
        fraction = known.get("fraction")
    one = fraction is None or isinstance(fraction, int | float)
    fractions: list[float | None] = [fraction] if one else list(dict.fromkeys(fraction))  # type: ignore[list-item,arg-type]
    for share in fractions:
        if share is not None:
            check_share("fraction", share)
    if fractions != [None] and "fraction" not in known:
        text = f"the scheme {scheme} has no share to choose: leave {{fraction}} out"
        raise InputError(text, code="unknown-option", fraction=...)
    for analysis in downstream:
        check_choice("downstream", analysis, DOWNSTREAM)
    check_choice("protocol", protocol, PROTOCOLS)
    if scheme == UNMASKED and not list(downstream):
        text = "the scheme none hides nothing, and only analyses can be scored: pass {downstream}"
        raise InputError(text, code="nothing-to-score", downstream=...)
    if protocol != "honest" and scheme == UNMASKED:
        text = "{protocol} is about what is hidden, and the scheme none hides nothing: leave {protocol} out"
        raise InputError(text, code="protocol-scheme", protocol=protocol)
    if protocol == "as_published" and scheme.startswith("thin"):
        text = "{protocol} gives no counts to thin: pass {scheme}"
        raise InputError(text, code="protocol-scheme", protocol=protocol, scheme="random")
    if protocol == OPEN_PROBLEMS:
        _check_open_problems(scheme, fractions, downstream)
    if transform not in (None, "none"):
        link_of(str(transform))
    return fractions


def _check_open_problems(scheme: str, fractions: Sequence[float | None], downstream: Iterable[str]) -> None:
    """Check that nothing was asked for that the benchmark does otherwise."""
    if scheme != open_problems.SCHEME:
        text = "{protocol} splits off molecules, each by itself: pass {scheme}"
        raise InputError(text, code="protocol-scheme", protocol=OPEN_PROBLEMS, scheme=open_problems.SCHEME)
    if fractions != [open_problems.FRACTION]:
        text = f"{{protocol}} splits off {open_problems.FRACTION:g} of the molecules: leave {{fraction}} out"
        raise InputError(text, code="protocol-fraction", protocol=OPEN_PROBLEMS, fraction=...)
    if list(downstream):
        text = "{protocol} has no analyses beside its scores: leave {downstream} out"
        raise InputError(text, code="protocol-downstream", protocol=OPEN_PROBLEMS, downstream=...)


def stratifies(scheme: str, options: Mapping[str, Any]) -> bool:
    """Whether a scheme with these options has test rows that labels stratify."""
    return "labels" in scheme_options(scheme) and (options.get("rows", "test") == "test" or scheme == "features")
