"""``[[tuning]]`` of a study: searches of a method's parameters by Optuna, one for each of some values of another."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import field
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StrictInt, model_validator
from pydantic.dataclasses import dataclass as validated

from imputome.core.parameters import check_names
from imputome.errors import InputError, MissingExtraError
from imputome.methods import get


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class Tuning:
    """Searches on one data set; see `imputome.studies.searches.searches_of`.

    The choices and ranges are those that the method declares (`Imputer.search_space`). If the method is that of
    ``[base]``, the parameters of the base are set too.
    """

    title: str
    method: str
    dataset: str  # name of one of the study's; nothing is hidden in it
    trials: Annotated[StrictInt, Field(ge=1, le=100_000)]  # of each search
    # parameter -> values: a search for each of their combinations; without it there is one search
    for_each: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = field(default_factory=dict)
    search: tuple[str, ...] = ()  # what is searched; by default all that the method declares and nothing else sets
    params: dict[str, Any] = field(default_factory=dict)  # that stay as they are
    objective: Literal["nll", "poisson_loss"] = "nll"  # as in `imputome.studies.tuning.tune`
    reported: dict[str, str] = field(default_factory=dict)  # name of a search -> what the paper reports of it

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        _check(self.reported, self.names(), "search")
        try:
            cls = get(self.method)
        except MissingExtraError:  # told when it is run
            return self
        check_names(cls, [*self.for_each, *self.params])
        _check(self.search, cls.search_space, f"parameter that {self.method} can search")
        set_here = {*self.for_each, *self.params}
        if set_here & set(self.search) or not set(cls.search_space) - set_here:
            text = (
                f"a parameter of {self.title!r} is either searched or set: for_each, params and search have to differ"
            )
            raise InputError(f"{text}, and leave something to search", code="study-field")
        return self

    def combinations(self) -> list[dict[str, Any]]:
        """The values of ``for_each`` in each search."""
        return [dict(zip(self.for_each, values, strict=True)) for values in itertools.product(*self.for_each.values())]

    def names(self) -> list[str]:
        """The name of each search in tables: its values."""
        return [", ".join(map(str, values.values())) or "all" for values in self.combinations()]


def on_datasets(tuning: Iterable[Tuning], names: Collection[str]) -> tuple[Tuning, ...]:
    """The searches that are on one of these data sets."""
    return tuple(each for each in tuning if each.dataset in names)


def _check(given: Iterable[str], known: Iterable[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"there is no {what} {name!r}: choose from {', '.join(known)}", code="study-field")
