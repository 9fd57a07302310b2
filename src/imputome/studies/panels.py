"""The panels of the pictures of a study: one map of the cells of one data set. Each has a file, and is made once."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imputome.core.data import Kind
from imputome.core.scales import Scale, counts_to_scale
from imputome.core.small_files import open_regular
from imputome.errors import InputError
from imputome.evaluation.clustering import coordinates
from imputome.evaluation.maps import SAMPLED_CELLS, CellSpace, rotated, sampled
from imputome.evaluation.splits import UNMASKED, Split, make_split, scheme_options, seed_for
from imputome.studies.inputs import Dataset, MethodSpec, digest, release
from imputome.studies.pictures import MASKED, RAW, Picture
from imputome.studies.results import write
from imputome.studies.runner import Tables, attempt, chosen_transform, drawn_split, impute_split
from imputome.studies.spec import Hiding, Study, Subset, non_defaults
from imputome.studies.units import PARTS_FOLDER
from imputome.trust.mixing import same_label_shares

# a row for each cell. ``near`` is the share of its nearest neighbours with its label, in the space that the map is made
# from, and ``near_on_map`` on the map. A panel that failed has one row, with the reason
TEXTS, NUMBERS = ("cell", "label", "reason"), ("x", "y", "near", "near_on_map")
COLUMNS = ("cell", "label", "x", "y", "near", "near_on_map", "reason")
MAX_LABELS = 24  # shown with a look of their own, the most frequent ones
OTHER, NOT_KNOWN = "other", "not known"


@dataclass(frozen=True)
class Panel:
    """One panel of a picture, for one data set."""

    picture: Picture
    subset: Subset
    panel: str  # its name in the picture
    hiding: Hiding | None  # None: nothing is hidden
    spec: MethodSpec | None  # None: the data
    data: str  # digest of the whole data set
    kind: Kind
    labels: np.ndarray = field(compare=False, repr=False)  # (n,) of the cells of the data set; empty: not known

    def name(self) -> str:
        """Its name in a line of progress."""
        return f"{self.subset.label}, {self.picture.by} of {self.panel}"

    @property
    def title(self) -> str:
        """Its name in the picture, with the method if that does not say it."""
        method = "" if self.spec is None else self.spec.name
        return self.panel if method in self.panel else f"{self.panel} ({method})"

    def file(self, study: Study, folder: Path) -> Path:
        """Its coordinates. The name depends on everything that they depend on."""
        identity: list[Any] = [non_defaults(self.subset), study.seed, self.data, release(), self.picture.by]
        identity += [self.picture.labels, {} if self.hiding is None else non_defaults(self.hiding)]
        what = f"{self.picture.of}, renormalized" if self.picture.renormalize else self.picture.of
        identity.append(self.panel if self.spec is None else [what, self.spec.label, self.spec.parameters])
        words = ["picture", self.subset.name, self.panel, self.picture.by]
        name = re.sub(r"[^A-Za-z0-9]+", "_", " ".join(words))[:100]
        return folder / PARTS_FOLDER / f"{name}_{digest(identity)}.csv"

    def run(self, study: Study, dataset: Dataset, tables: Tables) -> list[dict[str, Any]]:
        """The rows of its cells, or one with the reason for which there are none."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that are also runs, and of umap about its threads
            made = attempt(lambda: self._cells(study, dataset))
        rows: list[dict[str, Any]] = [{"reason": made.reason}] if made.reason else made.value.to_dict("records")
        return rows

    def ended(
        self, study: Study, tables: Tables, *, status: str, reason: str, metric: str = "", value: float = math.nan
    ) -> list[dict[str, Any]]:
        """Its rows if its process was stopped, or ended."""
        return [{"reason": reason}]

    def write(self, study: Study, folder: Path, rows: list[dict[str, Any]]) -> None:
        """Store its rows."""
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        write(table.fillna(dict.fromkeys(TEXTS, "")), self.file(study, folder))

    def stored(self, study: Study, folder: Path) -> pd.DataFrame:
        """Its stored rows; none if there is no file, or a damaged one: it is then made again."""
        try:
            with os.fdopen(open_regular(self.file(study, folder)), "rb") as stream:
                table = pd.read_csv(
                    stream,
                    dtype=dict.fromkeys(TEXTS, str) | dict.fromkeys(NUMBERS, float),
                    keep_default_na=False,
                    na_values={name: ["", "nan"] for name in NUMBERS},
                    float_precision="round_trip",
                )
        except (OSError, ValueError):
            return pd.DataFrame(columns=list(COLUMNS))
        return table if tuple(table.columns) == COLUMNS else pd.DataFrame(columns=list(COLUMNS))

    def _split(self, study: Study, dataset: Dataset) -> tuple[Split, int]:
        """What the methods are fitted on, as in the first trial of the study, and its seed."""
        hiding = self.hiding
        if hiding is None:
            seed = seed_for(dataset.name, UNMASKED, None, 0, base=study.seed)
            return make_split(UNMASKED, dataset.data, rng=np.random.default_rng(seed)), seed
        share = scheme_options(hiding.scheme).get("fraction") if hiding.fraction is None else hiding.fraction
        seed = seed_for(dataset.name, hiding.scheme, share, 0, base=study.seed)
        given: dict[str, Any] = {"protocol": hiding.protocol, "options": hiding.options}
        return drawn_split(dataset, hiding.scheme, share, seed=seed, **given), seed

    def _cells(self, study: Study, dataset: Dataset) -> pd.DataFrame:
        split, seed = self._split(study, dataset)
        shown = split.train if split.apply is None else split.apply  # a split of rows imputes some of them only
        places = np.arange(len(dataset.data.obs_names))
        if split.apply is not None:
            places = dataset.data.obs_names.get_indexer(shown.obs_names)
        cells = sampled(len(places), SAMPLED_CELLS, study.seed)
        places = places[cells]
        before = dataset.data.subset(rows=places)
        space = CellSpace(before, seed=study.seed)
        if self.spec is None:
            embedding = space.of_data(before if self.panel == RAW else shown.subset(rows=cells))
        else:
            embedding = self._embedding(self.spec, split, cells, space, seed)
        x, y = coordinates(embedding, method=self.picture.by, random_state=study.seed).T
        labels = self.labels[places]
        known = np.where(labels == "", None, labels.astype(object))
        positions = np.column_stack([x, y])
        near = [same_label_shares(labels=known, embedding=each) for each in (embedding, positions)]
        columns = {"cell": before.obs_names.astype(str), "label": labels, "x": x, "y": y}
        return pd.DataFrame(columns | {"near": near[0], "near_on_map": near[1]})

    def _embedding(self, spec: MethodSpec, split: Split, cells: np.ndarray, space: CellSpace, seed: int) -> np.ndarray:
        """(s, k) latents of the cells, or components of their imputed values."""
        link, _ = chosen_transform(split.train, None if self.subset.transform is None else "none")
        imputation = impute_split(replace(spec, after=""), split, seed, link)
        if self.picture.of == "imputed":
            if not self.picture.renormalize:
                scale: Scale | None = "normalized" if imputation.data.kind == "counts" else None
                return space.of_values(imputation.rows(cells, genes=space.genes, scale=scale))
            if imputation.data.kind != "counts":
                raise InputError("renormalize is for counts: leave it out for real values", code="counts-only")
            total = np.concatenate([block.sum(axis=1, dtype=np.float64) for _, block in imputation.blocks()])[cells]
            values = imputation.rows(cells, genes=space.genes)
            return space.of_values(counts_to_scale(values, total[:, None], "normalized"))
        if imputation.latent is None:
            raise InputError(f"this fit of {spec.name} has no latents: draw of='imputed'", code="no-latents")
        return np.asarray(imputation.latent)[cells]


def panels_of(
    study: Study, datasets: Mapping[str, tuple[Dataset, str]], labels: Mapping[tuple[str, str], np.ndarray]
) -> list[Panel]:
    """All panels on these data sets: label of a subset -> data set, and digest of what it was taken from; ``labels``
    are those of its cells, by the label of the subset and the column.
    """
    hidings = {split.label: split for split in study.splits}
    panels = []
    for picture in study.pictures:
        hiding = hidings.get(picture.split)
        specs = study.control_specs()
        specs |= study.specs(hiding) if hiding else {each.name: each.spec for each in study.configurations}
        for subset in study.datasets:
            fits = hiding is None or hiding in study.splits_of(subset)
            if subset.label in datasets and picture.takes(subset.name) and fits:
                dataset, data = datasets[subset.label]
                known = labels[subset.label, picture.labels]
                for name in picture.panels:
                    spec = None if name in (RAW, MASKED) else specs[name]
                    panels.append(Panel(picture, subset, name, hiding, spec, data, dataset.data.kind, known))
    return panels


def panels_left(study: Study, panels: Iterable[Panel], folder: Path) -> list[Panel]:
    """The panels that are not made yet, or failed; each once, if several pictures have it."""
    by_file = {panel.file(study, folder): panel for panel in panels}

    def is_made(panel: Panel) -> bool:
        rows = panel.stored(study, folder)
        return len(rows) > 0 and not rows["reason"].any()

    return [panel for panel in by_file.values() if not is_made(panel)]


# -- what is drawn -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Drawing:
    """A picture of one data set, as it is drawn."""

    picture: Picture
    number: int  # of the picture in the study, from 1
    place: int  # of the data set in the study, from 1
    dataset: str
    kind: Kind
    column: str  # of ``obs`` that the labels are
    labels: dict[str, int]  # label -> number of cells, in the order of the legend; the last can be `OTHER`, `NOT_KNOWN`
    chance: float  # share of cells drawn at random with the label of a cell; NaN if fewer than two labels are known
    # title of a panel -> cell, label, x, y of each cell; rotated to match the first
    panels: dict[str, pd.DataFrame]
    near: dict[str, tuple[float, float]]  # title of a panel -> means of ``near`` and ``near_on_map``
    failed: dict[str, str]  # title of a panel -> reason
    seed: int


def drawings(study: Study, panels: Sequence[Panel], folder: Path) -> list[Drawing]:
    """The pictures of which something is made, for each data set."""
    made = []
    for number, picture in enumerate(study.pictures, 1):
        for place, subset in enumerate(study.datasets, 1):
            own = [panel for panel in panels if panel.picture is picture and panel.subset is subset]
            tables = {panel.title: panel.stored(study, folder) for panel in own}
            failed = {name: table["reason"].iloc[0] for name, table in tables.items() if table["reason"].any()}
            done = {name: table for name, table in tables.items() if len(table) and name not in failed}
            if done or failed:
                column = picture.labels or subset.labels or "group"  # the column of simulated cells
                given: dict[str, Any] = {"picture": picture, "number": number, "place": place, "dataset": subset.label}
                given |= {"kind": own[0].kind, "column": column, "failed": failed, "seed": study.seed}
                made.append(_drawing(done, given))
    return made


def _drawing(tables: dict[str, pd.DataFrame], given: dict[str, Any]) -> Drawing:
    """The drawing of stored panels; ``given`` are its other fields."""
    first = next(iter(tables.values()), pd.DataFrame(columns=list(COLUMNS)))
    sizes = first.loc[first["label"] != "", "label"].value_counts()
    sizes = sizes.iloc[np.lexsort([sizes.index, -sizes.to_numpy()])]
    shown = sizes if len(sizes) <= MAX_LABELS else sizes.iloc[: MAX_LABELS - 1]
    labels = {str(label): int(size) for label, size in shown.items()}
    others = {OTHER: int(sizes.sum() - shown.sum()), NOT_KNOWN: int((first["label"] == "").sum())}
    known = int(sizes.sum())
    chance = float((sizes * (sizes - 1)).sum() / (known * (known - 1))) if len(sizes) > 1 else math.nan
    panels: dict[str, pd.DataFrame] = {}
    target: np.ndarray | None = None
    for name, table in tables.items():
        points = table[["x", "y"]].to_numpy()
        target = points if target is None else target
        points = rotated(points, target)
        texts = np.where(table["label"] == "", NOT_KNOWN, np.where(table["label"].isin(labels), table["label"], OTHER))
        panels[name] = pd.DataFrame({"cell": table["cell"], "label": texts, "x": points[:, 0], "y": points[:, 1]})
    near = {name: (float(table["near"].mean()), float(table["near_on_map"].mean())) for name, table in tables.items()}
    labels |= {name: size for name, size in others.items() if size}
    return Drawing(**given, labels=labels, chance=chance, panels=panels, near=near)
