"""What other tools made of a masked data set, in the tables of studies, and in a table of their own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.imputation import Imputation
from imputome.errors import InputError, Message
from imputome.evaluation.masked import MASK_KEY, read_mask
from imputome.evaluation.outside import Fitted, Outside, fitted
from imputome.evaluation.returned import on_return, returned
from imputome.evaluation.splits import Split
from imputome.methods import names
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS
from imputome.studies.inputs import Dataset, digest, release

if TYPE_CHECKING:
    from anndata import AnnData

# entries of the record of a mask that are no options of its scheme
_NOT_OPTIONS = ("labels",)


@dataclass(frozen=True)
class External:
    """What another tool made of the split of a study; it stands among the `MethodSpec` of the study."""

    values: Outside
    result: Fitted | None = None  # as an imputation of a split
    after: str = ""
    link: None = None

    @property
    def label(self) -> str:
        """The name in tables of results."""
        return self.values.name

    @property
    def parameters(self) -> str:
        """JSON that differs between values, so that new ones are never taken for those that were scored before."""
        parts = [self.values.X, self.values.obs_names, self.values.var_names, self.values.scale]
        return json.dumps({"external": digest(parts)})

    def of(self, split: Split) -> External:
        """The same, as an imputation of a split."""
        try:
            result = fitted(self.values, split)
        except InputError as error:
            raise InputError(of_external(error.message)) from error
        messages = (*map(of_external, result.messages), *on_return(self.values.name, returned(result)))
        return replace(self, result=replace(result, messages=messages))

    @property
    def imputation(self) -> Imputation:
        """The values, once `of` has been called."""
        assert self.result is not None  # noqa: S101
        return self.result.imputation


def of_external(message: Message) -> Message:
    """A message about one result, whose options are part of ``external`` here."""
    template, options = message.template, dict(message.options)
    for name in ("layer", "scale"):
        if name in options:
            value = options.pop(name)
            shown = name if value is ... else f"{name}={value}"
            template = template.replace(f"{{{name}}}", f"{shown} in {{external}}")
            options["external"] = ...
    return Message(template, code=message.code, **options)


def is_external(parameters: str) -> bool:
    """Whether the parameters of a row are those of another tool."""
    return parameters.startswith('{"external": ')


def check_names(external: Iterable[Outside]) -> None:
    """Check that each tool has a name, its own, which is none of a method."""
    used: set[str] = set()
    for each in external:
        taken = each.name in (*names(), *REFERENCE_PREDICTIONS) or each.name in used
        if taken or not each.name.strip():
            why = "has no name" if not each.name.strip() else f"cannot be called {each.name!r}, which is the name of "
            why += "another row" if taken else ""
            raise InputError(f"a result {why}: give it another name", code="name-taken", parameter="external")
        used.add(each.name)


def free_name(file: str) -> str:
    """The name of a tool from that of its file or layer: the first part of it, unless a method has this name."""
    short = file.split(".")[0]
    taken = (*names(), *REFERENCE_PREDICTIONS, "")
    return short if short not in taken else file if file not in taken else f"{file} (result)"


def check_study(
    datasets: Sequence[Dataset], fractions: Sequence[Any], trials: Sequence[int], protocol: str, masked: Any
) -> None:
    """Check that a study has the one split from which other tools imputed values."""
    if masked is None:
        text = "results of other tools do not say which values were hidden: pass {masked}, the masked data that the "
        raise InputError(f"{text}tools were given", code="masked-missing", masked=...)
    numbers: tuple[tuple[str, int, dict[str, Any]], ...] = (
        ("data sets", len(datasets), {}),
        ("shares of hidden values", len(fractions), {"fraction": ...}),
        ("trials", len(trials), {"trials": 1}),
    )
    for what, number, options in numbers:
        if number > 1:
            text = f"results of other tools are for one masked file, and there are {number} {what}: evaluate one"
            remedy = "".join(f", with {{{name}}}" for name in options)
            raise InputError(text + remedy, code="external-one-split", **options)
    if protocol != "honest":
        text = "`imputome mask` hides values of the counts as they are: leave {protocol} out for results of other tools"
        raise InputError(text, code="external-protocol", protocol=...)


def check_record(
    masked: AnnData, *, scheme: str, fraction: float | None, seed: int, options: Mapping[str, Any]
) -> None:
    """Check that the masked data were made with the settings of the study, by their record.

    ``options`` are those of the scheme. The error says which settings to evaluate with.
    """
    read_mask(masked)  # refuses what is none
    record = masked.uns[MASK_KEY]
    mine: dict[str, Any] = {"scheme": scheme, "fraction": fraction, "seed": seed}
    theirs: dict[str, Any] = {"scheme": str(record["scheme"]), "seed": int(record["seed"])}
    theirs["fraction"] = float(record["fraction_asked"]) if "fraction_asked" in record else None
    made = json.loads(str(record["options"]))
    theirs |= {name: value for name, value in made.items() if name not in _NOT_OPTIONS and name != "rows"}
    mine |= {name: value for name, value in options.items() if name not in (*_NOT_OPTIONS, "rows")}
    differ = {name: theirs.get(name) for name in {**mine, **theirs} if _differ(mine.get(name), theirs.get(name))}
    if not differ:
        return
    given = {name: value for name, value in differ.items() if value is not None}
    unused: dict[str, Any] = {name: ... for name, value in differ.items() if value is None}
    remedy = [f"pass {', '.join(f'{{{name}}}' for name in given)}"] if given else []
    remedy += [f"leave {', '.join(f'{{{name}}}' for name in unused)} out"] if unused else []
    text = f"the masked data were made with other settings than this evaluation: {', and '.join(remedy)}"
    raise InputError(text, code="other-mask", **given, **unused)


def _differ(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, int | float) and isinstance(theirs, int | float):
        return not math.isclose(mine, theirs)
    return (None if mine is None else str(mine)) != (None if theirs is None else str(theirs))


def check_split(masked: AnnData, split: Split, *, scheme: str, fraction: float | None, seed: int) -> None:
    """Check that masked data hide the same values as the split of a study."""
    theirs = read_mask(masked)
    reason = _difference(theirs, split)
    if reason:
        text = f"the masked data were made of other data, or with other options, than this evaluation ({reason}): "
        text += "evaluate the data that they were made of, with the options that `imputome mask` had, or mask these "
        options: dict[str, Any] = {"scheme": scheme, "seed": seed}
        if fraction is not None:
            options["fraction"] = fraction
        text += f"data with {', '.join(f'{{{name}}}' for name in options)} and run the tools on these"
        raise InputError(text, code="mask-of-other-data", **options)


def _difference(theirs: Split, mine: Split) -> str:
    """In what two splits differ, in words; empty if in nothing."""
    for what, axis in (("cells", "obs_names"), ("genes", "var_names")):
        one, two = getattr(theirs.train, axis), getattr(mine.train, axis)
        if len(one) != len(two):
            return f"they have {len(one):,} {what}, and these data {len(two):,}"
        if not one.equals(two):
            return f"their {what} have other names, or another order"
    same = _same(theirs.train.X, mine.train.X) and _same(theirs.test, mine.test)
    same = same and all(_same(getattr(theirs, name), getattr(mine, name)) for name in ("i", "j", "truth"))
    return "" if same else "other values are hidden"


def _same(one: Any, two: Any) -> bool:
    if one is None or two is None:
        return one is two
    if one.shape != two.shape:
        return False
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two, equal_nan=True)
    return bool(abs(one - two).sum() == 0)


def options_of_mask(masked: AnnData, name: str) -> str:
    """What scores of masked data are stored under in the column ``options``."""
    record = masked.uns[MASK_KEY]
    settings = {"shape": masked.shape, "masked": name, **json.loads(str(record["options"]))}
    return json.dumps({**settings, "data": digest([masked.X, masked.layers["truth"]]), "version": release()})
