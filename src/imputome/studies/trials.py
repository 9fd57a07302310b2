"""How many trials each configuration of a study has, and the rows of equally many trials, which can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from imputome.studies.spec import Configuration, Hiding, Study


def most_trials(study: Study) -> int:
    """The trials of the base and of the controls, with which every configuration is compared."""
    return max(study.trials, *study.trials_of.values(), 1)


def trials_of_configurations(study: Study) -> dict[str, int]:
    """Name of a configuration -> its number of trials.

    ``Study.trials_of`` says it for the configurations that differ from the base in one parameter; of several parameters
    the fewest count, and one that is not named has ``Study.trials``. So in a study with ``trials = 10`` and
    ``trials_of = { activation = 20 }`` other activations have 20 trials, and other activations of other depths 10.

    Examples
    --------
    >>> from imputome.studies.inputs import MethodSpec
    >>> from imputome.studies.spec import Configuration, Hiding, Study, Subset
    >>> from imputome.studies.trials import trials_of_configurations
    >>> params = {"base": {"k": 4}, "wide": {"k": 8}, "coarse": {"k": 4, "n_components": 5}}
    >>> made = tuple(Configuration(name, MethodSpec("knn_smoothing", each)) for name, each in params.items())
    >>> study = Study("made", "", (Subset("pbmc68k"),), (Hiding("thin"),), made, trials=2, trials_of={"k": 6})
    >>> trials_of_configurations(study)
    {'base': 6, 'wide': 6, 'coarse': 2}
    """
    base = study.configurations[0]
    return {each.name: _number(study, base, each) for each in study.configurations}


def _number(study: Study, base: Configuration, configuration: Configuration) -> int:
    spec, first = configuration.spec, base.spec
    if spec == first:
        return most_trials(study)
    if (spec.method, spec.after) != (first.method, first.after):
        return study.trials
    missing = object()  # a parameter that only one of them names
    names = {*spec.params, *first.params}
    different = [name for name in names if spec.params.get(name, missing) != first.params.get(name, missing)]
    return min(study.trials_of.get(name, study.trials) for name in different)


def trials_of_rows(study: Study, split: Hiding) -> dict[tuple[str, str], int]:
    """(method, parameters) as in tables of results -> number of trials; equal configurations have the most."""
    numbers = {(spec.label, spec.parameters): most_trials(study) for spec in study.control_specs().values()}
    of_name = trials_of_configurations(study)
    for name, spec in study.specs(split).items():
        key = spec.label, spec.parameters
        numbers[key] = max(numbers.get(key, 0), of_name[name])
    return numbers


def at_levels(study: Study, table: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """The rows in parts that hold equally many trials of every configuration, with their number, fewest first.

    The first part has all configurations, and the failures; the others those that have more trials.
    """
    if not study.trials_of:
        yield study.trials, table
        return
    numbers = _numbers(study, table)
    levels = sorted({number for split in study.splits for number in trials_of_rows(study, split).values()})
    failed = table["status"] != "ok"
    yield levels[0], table[failed | (table["trial"] < levels[0])]
    for level in levels[1:]:
        yield level, table[~failed & (numbers >= level) & (table["trial"] < level)]


def in_common(study: Study, names: Iterable[str], split: Hiding) -> int | None:
    """The number of trials that all these configurations and controls have; None: every row counts."""
    if not study.trials_of:
        return None
    numbers = trials_of_rows(study, split)
    specs = {**study.control_specs(), **study.specs(split)}
    return min((numbers[specs[name].label, specs[name].parameters] for name in names), default=None)


def _numbers(study: Study, table: pd.DataFrame) -> pd.Series:
    """The number of trials that the study asks for, of the method of each row."""
    by_split = {split.label: trials_of_rows(study, split) for split in study.splits}
    rows = zip(table["scheme"], table["method"], table["parameters"], strict=True)
    most = most_trials(study)
    return pd.Series(
        [by_split.get(scheme, {}).get((method, parameters), most) for scheme, method, parameters in rows],
        index=table.index,
        dtype=int,
    )
