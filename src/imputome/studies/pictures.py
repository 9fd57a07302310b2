"""Pictures of cells in a study: one of its tables ``[[pictures]]``, and the checks of it that need no data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, model_validator
from pydantic.dataclasses import dataclass as validated

from imputome.errors import InputError
from imputome.methods import info
from imputome.methods.controls.estimators import REFERENCE_PREDICTIONS
from imputome.studies.inputs import MethodSpec

RAW, MASKED = "raw", "masked"  # panels of the data: as they are, and what a split leaves of them


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class Picture:
    """Maps of the cells side by side, coloured by their labels, for each data set.

    Each panel is ``"raw"``, ``"masked"`` (what the split leaves), or a configuration or control, which is fitted on
    what the split leaves as in the first trial: then its imputed values or its latents are drawn.
    """

    title: str
    panels: Annotated[tuple[str, ...], Field(min_length=1)]
    by: Literal["umap", "tsne"] = "umap"
    of: Literal["imputed", "latents"] = "imputed"  # what is drawn of a configuration
    split: str = ""  # label of a split of the study; without it nothing is hidden
    labels: str = ""  # column of ``obs`` for the colours; by default the labels of the data set
    renormalize: StrictBool = False  # whether imputed counts are normalised again, by what the method made of a cell
    datasets: tuple[str, ...] = ()  # names of those that it is for; by default all

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if len(set(self.panels)) < len(self.panels):
            raise InputError(f"picture {self.title!r} has a panel twice: give each once", code="panel-twice")
        if MASKED in self.panels and not self.split:
            text = f"picture {self.title!r}: {MASKED!r} is what a split leaves: give the name of a split"
            raise InputError(text, code="split-needed")
        if self.renormalize and self.of == "latents":
            text = f"picture {self.title!r}: renormalize is about imputed counts: leave it out, or draw of='imputed'"
            raise InputError(text, code="renormalize-latents")
        return self

    @property
    def configurations(self) -> tuple[str, ...]:
        """The panels that are names of configurations and controls."""
        return tuple(name for name in self.panels if name not in (RAW, MASKED))

    def takes(self, dataset: str) -> bool:
        """Whether the picture is for a data set of this name."""
        return not self.datasets or dataset in self.datasets

    def check(self, specs: Mapping[str, MethodSpec], labelled: Mapping[str, bool], *, shares_fits: bool) -> None:
        """Check it against its study.

        ``specs`` has its configurations and controls, ``labelled`` says which data sets have labels of their own, and
        ``shares_fits`` whether all splits of the study share one fit.
        """
        where = f"picture {self.title!r}"
        if self.split and shares_fits:
            text = f"{where}: the splits of this study are of test rows, not of a whole matrix: leave split out"
            raise InputError(text, code="picture-split")
        for name in self.configurations if self.of == "latents" else ():
            method = specs[name].method
            if method in REFERENCE_PREDICTIONS or not info(method).latent:
                text = f"{where}: {specs[name].name} of {name!r} has no latents: leave it out, or draw of='imputed'"
                raise InputError(text, code="no-latents")
        for name, has_labels in labelled.items():
            if self.takes(name) and not has_labels and not self.labels:
                text = f"{where}: the data set {name} has no labels: give labels, the name of a column of obs"
                raise InputError(text, code="labels-needed")


def pictures_within(
    pictures: Iterable[Picture],
    *,
    datasets: Iterable[str],
    configurations: Iterable[str] | None = None,
    splits: Iterable[str] | None = None,
) -> tuple[Picture, ...]:
    """The pictures without the panels and data sets that are not among these (None: all), if anything is left."""
    there = set(datasets)
    known = None if configurations is None else {RAW, MASKED, *configurations}
    labels = None if splits is None else {"", *splits}
    kept = []
    for picture in pictures:
        panels = tuple(name for name in picture.panels if known is None or name in known)
        names = tuple(name for name in picture.datasets if name in there)
        without_data = picture.datasets and not names
        without_split = labels is not None and picture.split not in labels
        # the data alone are no picture of what methods make of them, unless this was all that was asked for
        without_methods = not panels or (picture.configurations and known and known.isdisjoint(picture.configurations))
        if not (without_data or without_split or without_methods):
            kept.append(replace(picture, panels=panels, datasets=names))
    return tuple(kept)
