"""The table of scores, and the verdict, for what another tool made of a masked data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imputome.core.imputation import Imputation
from imputome.errors import InputError, Message
from imputome.evaluation.glossary import DECIDING
from imputome.evaluation.masked import MASK_KEY, read_mask
from imputome.evaluation.metrics import METRICS
from imputome.evaluation.outside import Outside, fitted, with_names_of
from imputome.evaluation.returned import on_return, returned
from imputome.evaluation.splits import Split
from imputome.evaluation.streaming import score_hidden, score_thinned
from imputome.methods import REFERENCE, controls
from imputome.result.record import Verdict
from imputome.result.run import Progress
from imputome.studies.external import External, check_names, options_of_mask
from imputome.studies.inputs import MethodSpec, with_controls
from imputome.studies.results import summary, table_of
from imputome.studies.runner import attempt, chosen_transform, impute_split, score_rows
from imputome.trust.outside_verdict import outside_verdict

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


TINY = 1e-12  # smaller scores are zero but for rounding
SCORES_SHOWN = 4  # scores that the repr shows, those that decide first


@dataclass(frozen=True, repr=False)
class Score:
    """What `imputome.score` found.

    Attributes
    ----------
    table : DataFrame
        One row per score of the tool, of the controls and of further methods, as `imputome.evaluate` returns it.
    verdict : Verdict
        Whether to use what the tool makes of such data, and the reasons.
    scale : str
        Scale that the values were on; ``"input"`` for real values.
    transposed : bool
        Whether the genes were in the rows.
    hidden : int
        Number of hidden entries; under thinning, of those from which molecules were split off.
    equal : int
        How many of these have exactly the value from before they were hidden; if a tool of counts must have seen them,
        but for one factor for each cell (`up_to_factors`).
    leaked : bool
        Whether the tool must have seen what was hidden.
    up_to_factors : bool
        Whether ``equal`` counts values that are equal up to one factor for each cell.
    messages : tuple of Message
        What the user should know: how the values were matched and read.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:200, :50]
    >>> masked = imputome.mask(adata, scheme="thin", fraction=0.1)
    >>> score = imputome.score(masked, masked.to_df() + 0.1, name="a bit more", scale="counts")
    >>> score.verdict.verdict, score.leaked
    ('do not impute', False)
    """

    table: pd.DataFrame
    verdict: Verdict
    scale: str
    transposed: bool
    hidden: int
    equal: int
    leaked: bool
    up_to_factors: bool = False
    messages: tuple[Message, ...] = ()

    @property
    def summary(self) -> pd.DataFrame:
        """One row per method and metric, which is best, and which control a method does not beat."""
        return summary(self.table)

    def __repr__(self) -> str:
        means = self.summary
        contests = [name for name, metric in METRICS.items() if metric.is_contest]
        shown = [name for name in dict.fromkeys([*DECIDING, *contests]) if name in set(means["metric"])][:SCORES_SHOWN]
        wide = means[means["metric"].isin(shown)].pivot(index=["method", "parameters"], columns="metric", values="mean")
        wide = wide[shown].droplevel("parameters").sort_values(shown[0])
        text = wide.to_string(float_format=lambda value: f"{0.0 if abs(value) < TINY else value:.4g}", na_rep="")
        reasons = "\n".join(f"  - {reason}" for reason in self.verdict.reasons)
        return f"Score: {self.verdict.verdict} ({self.verdict.method})\n{reasons}\n{text}"


def score_masked(
    masked: AnnData,
    outside: Outside,
    specs: Iterable[MethodSpec] = (),
    *,
    dataset: str = "data",
    transform: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Score:
    """Score what another tool made of masked data, beside the controls and the methods ``specs``.

    See `imputome.score`; ``dataset`` is the name of the data in the table.
    """
    check_names([outside])
    split = read_mask(masked)
    kind = split.train.kind
    to_run = with_controls(specs, kind)
    link, messages = chosen_transform(split.train, transform)
    outside = with_names_of(outside, masked)
    tool = External(outside)
    result = fitted(outside, split)
    back = returned(result)
    record = masked.uns[MASK_KEY]
    base = {
        "dataset": dataset,
        "scheme": f"{split.scheme} (leaky)" if split.leaky else split.scheme,
        "options": options_of_mask(masked, dataset),
        "fraction": float(record.get("fraction_asked", record["fraction_realised"])),
        "trial": 0,
        "seed": int(record["seed"]),
        "transform": link if kind == "real" else "",
    }
    rows: list[dict[str, Any]] = []
    imputations: dict[str, Imputation] = {}
    for place, spec in enumerate(to_run):
        if progress is not None:
            progress(place / (len(to_run) + 1), spec.label)
        step = attempt(lambda spec=spec: impute_split(spec, split, seed, link))  # type: ignore[misc]
        key = {**base, "method": spec.label, "parameters": spec.parameters}
        if step.reason:
            rows += [{**key, **row} for row in score_rows([step])]
            continue
        part = result.part_of(step.value)
        if spec.label in controls(kind) and spec.parameters == "{}":
            imputations[spec.label] = part
        scored = attempt(scorer(part, result.split, link))
        rows += [{**key, **row} for row in score_rows([step], scored, part.status)]
    if progress is not None:
        progress(len(to_run) / (len(to_run) + 1), outside.name)
    scored = attempt(scorer(result.imputation, result.split, link))
    key = {**base, "method": tool.label, "parameters": tool.parameters, "seconds": math.nan, "peak_bytes": math.nan}
    rows += [{**row, **key} for row in score_rows([scored], scored, result.imputation.status)]
    reference = REFERENCE[kind]
    if reference not in imputations:
        reason = next(row["reason"] for row in rows if row["method"] == reference)
        raise InputError(f"the control {reference} could not be fitted to the masked data: {reason}", code="no-control")
    verdict = outside_verdict(result, imputations, back, name=outside.name, link=link, seed=seed)
    return Score(
        table=table_of(rows),
        verdict=verdict,
        scale=result.scale,
        transposed=result.transposed,
        hidden=back.entries,
        equal=back.equal,
        leaked=back.leaked,
        up_to_factors=back.factor,
        messages=(*messages, *result.messages, *on_return(outside.name, back)),
    )


def scorer(imputation: Imputation, split: Split, link: str) -> Callable[[], dict[str, float]]:
    """A call that scores an imputation of a split as `imputome.studies.runner.run_study` does."""
    if split.test is not None:
        return lambda: score_thinned(imputation, split)
    return lambda: score_hidden(imputation, split, link_name=link)
