"""What a study is, once it is read (`imputome.studies.spec`): data, ways to hide values, configurations, claims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Literal

from imputome.errors import InputError
from imputome.studies.runner import MethodSpec, standard_controls

TOGETHER = "zscore"  # scale of the splits that share one trial
ClaimKind = Literal["better", "at_least", "monotone", "close", "similar"]


@dataclass(frozen=True)
class Subset:
    """A dataset and the part of it that a study takes; see `imputome.studies.spec`."""

    name: str
    max_cells: int | None = None
    min_genes: int = 0
    min_cells: int = 0
    n_top_genes: int | None = None
    max_features: int | None = None
    transform: str = "identity"
    labels: str = ""
    clinical: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name in the results, which says what was left of the dataset."""
        cells = None if self.max_cells is None else f"at most {self.max_cells} cells"
        genes = None if self.n_top_genes is None else f"{self.n_top_genes} variable genes"
        features = None if self.max_features is None else f"at most {self.max_features} features"
        parts = [part for part in (cells, genes, features) if part]
        return f"{self.name} ({', '.join(parts)})" if parts else self.name


@dataclass(frozen=True)
class Hiding:
    """One way of hiding values; see `imputome.studies.spec`."""

    scheme: str
    fraction: float | None = None
    scale: str = "counts"
    params: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    coverage: str = ""

    @property
    def label(self) -> str:
        """Name in the results, under ``scheme``."""
        return self.name or self.scheme


@dataclass(frozen=True)
class Configuration:
    """A method with parameters, under the name that tables and claims know it by."""

    name: str
    spec: MethodSpec


@dataclass(frozen=True)
class Claim:
    """A statement that results can bear out or not; see `imputome.studies.claims`.

    Attributes
    ----------
    text : the statement.
    kind : ``"better"``: ``configurations`` has two, and the first is better than the second in ``metric``, by the share
        ``value`` of the second's or more; ``"similar"``: the first of two lies within the share ``value`` of the
        second; ``"at_least"``: ``metric`` of the one is ``value`` or more; ``"monotone"``: ``metric`` never rises along
        them; ``"close"``: ``metric`` of the one lies within the share ``value`` of its ``reference``, another metric.
    metric : what is looked at; only splits that have it count.
    configurations : their names.
    control : for ``"better"``: whether the first also beats this control is told beside.
    splits, datasets : labels and names of those that it is about; none means all.
    """

    text: str
    kind: ClaimKind
    metric: str
    configurations: tuple[str, ...]
    value: float = 0.0
    reference: str = ""
    control: str = ""
    splits: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A Wilcoxon signed-rank test over trials of one configuration against each of some others."""

    first: str
    others: tuple[str, ...]
    metric: str = "rmse"


@dataclass(frozen=True)
class Published:
    """A table of a paper, shown with ours beside it.

    Attributes
    ----------
    title : of the table.
    metric, dataset : of ours.
    columns : heading -> configuration or control.
    rows : label of a split -> heading -> the paper's figure, as text.
    """

    title: str
    metric: str
    dataset: str
    columns: dict[str, str]
    rows: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Study:
    """A study as read from a file; see `imputome.studies.spec`."""

    name: str
    title: str
    datasets: tuple[Subset, ...]
    splits: tuple[Hiding, ...]
    configurations: tuple[Configuration, ...]
    claims: tuple[Claim, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    published: tuple[Published, ...] = ()
    controls: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    spread: Literal["sd", "interval"] = "sd"
    gc: str = ""
    paper: str = ""
    trials: int = 1
    seed: int = 0

    @property
    def together(self) -> bool:
        """Whether the splits of a trial share their rows and their fits (`imputome.studies.trial`)."""
        return self.splits[0].scale == TOGETHER

    def splits_of(self, subset: Subset) -> tuple[Hiding, ...]:
        """The ways of hiding values that are meant for a dataset and can be had."""
        meant = (split for split in self.splits if not split.datasets or subset.name in split.datasets)
        return tuple(split for split in meant if not self.lacking(split))

    def lacking(self, split: Hiding) -> str:
        """What a split needs and has not been given; nothing if it can be had."""
        if split.scheme == "high_gc" and not self.gc:
            return (
                "high_gc needs the GC content of the genes: a CSV of two columns, gene and content, as the study's gc"
            )
        return ""

    def specs(self, split: Hiding) -> dict[str, MethodSpec]:
        """Name -> method and parameters under ``split``; equal ones have several names."""
        method = self.configurations[0].spec.name
        return {
            name: replace(spec, params={**spec.params, **split.params}) if spec.name == method else spec
            for name, spec in ((configuration.name, configuration.spec) for configuration in self.configurations)
        }

    def names_of_rows(self, split: Hiding) -> dict[tuple[str, str], list[str]]:
        """(method, parameters) as they stand in results -> names here; a control is called by its method's name."""
        found: dict[tuple[str, str], list[str]] = {}
        for name, spec in {**self.control_specs(), **self.specs(split)}.items():
            found.setdefault((spec.label, spec.parameters), []).append(name)
        return found

    def control_specs(self) -> dict[str, MethodSpec]:
        """Every control by its name: those that come with the kinds of data, and the study's own."""
        return {
            name: MethodSpec(name)
            for name in (*standard_controls("counts"), *standard_controls("real"), *self.controls)
        }

    def only(self, wanted: Iterable[str]) -> Study:
        """The study on some of its datasets."""
        wanted = list(wanted)
        known = [subset.name for subset in self.datasets]
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            missing = unknown[0] if unknown else ""
            raise InputError(f"the study {self.name} has no dataset {missing!r}: choose of {', '.join(known)}")
        return replace(self, datasets=tuple(subset for subset in self.datasets if subset.name in wanted))


def told(part: Subset | Hiding) -> dict[str, Any]:
    """What is not as by default: an option that is added later does not make old results another study's."""
    defaults = {
        entry.name: entry.default if entry.default_factory is MISSING else entry.default_factory()
        for entry in fields(part)
    }
    return {name: getattr(part, name) for name, default in defaults.items() if getattr(part, name) != default}
