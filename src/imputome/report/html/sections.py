"""The sections of the page of one result, from its `Content`."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd

from imputome.evaluation.metrics import COVERAGE
from imputome.methods import info, names
from imputome.report.before_after import direction, strong_shares
from imputome.report.html import charts, citation
from imputome.report.html.content import Content
from imputome.report.html.parts import (
    Chart,
    Live,
    Section,
    Table,
    distinct,
    json_column,
    live_columns,
    percent,
    sentence,
    table_of,
    terms_table,
    text_of,
)
from imputome.trust.reliability import MIN_HELD_OUT, SMALLEST_GAIN, judged
from imputome.trust.verdict import COVERAGE_RANGE, MIXED, NULL, about_zeros, accepted, in_words, measurements

MAX_TABLE_GENES = 20_000  # in the table that is searched
MAX_RAISED_GENES = 10  # in the table of genes with imputed confident zeros
MAX_NAMES = 8  # of cells or genes that are named in one line
SCALE_WORDS = {
    "counts": "at the library size of each cell",
    "normalized": "counts per 10,000 of the cell's library size",
    "log1p": "ln(1 + counts per 10,000 of the cell's library size)",
    "log2p1": "log2(1 + counts per 10,000 of the cell's library size)",
    "log10p1": "log10(1 + counts per 10,000 of the cell's library size)",
    "sqrt": "square root of the counts per 10,000 of the cell's library size",
    "log1p_counts": "ln(1 + counts)",
    "log2p1_counts": "log2(1 + counts)",
    "log10p1_counts": "log10(1 + counts)",
    "sqrt_counts": "square root of the counts",
    "input": "the unit of the input",
}


def result_parts(content: Content) -> dict[str, Any]:
    """What the template of a result shows: what the verdict rests on, and all sections that have something to show."""
    verdict, words = content.record.verdict, content.words
    basis, figures = [], []
    if verdict:
        basis = [
            ("method checked", verdict.method),
            (f"control that {words.columns} are compared with", verdict.reference),
            (f"{words.rows} in the sample", text_of(verdict.cells)),
            (f"{words.columns} in the sample", text_of(verdict.genes_used)),
            ("number of fits", text_of(verdict.fits)),
            ("seconds", text_of(verdict.seconds)),
            ("seed", str(verdict.seed)),
            ("version of the rule", verdict.rule),
            ("held out by the scheme", verdict.held_out or "not recorded"),
            ("criteria not met", ", ".join(verdict.failed)),
        ]
        figures = [(name.replace("_", " "), text_of(value)) for name, value in verdict.figures.items()]
    return {
        "content": content,
        "basis": [(term, text) for term, text in basis if text],
        "words_of_verdict": in_words(verdict) if verdict else "",
        "measurements": measurements(verdict) if verdict else [],
        "figures": terms_table(figures, "Numbers that the verdict is based on", "number", "value"),
        "sections": sections(content),
    }


def sections(content: Content) -> list[Section]:
    """All sections that have something to show, in the order of the page."""
    parts = (_done, _scores, _race, _zeros, _genes, _spread, _embedding, _null, _calibration, _mixing, _history, _cite)
    return [section for section in (part(content) for part in parts) if section is not None]


# -- the method --------------------------------------------------------------------------------------------------------
def _done(content: Content) -> Section:
    record, words = content.record, content.words
    known = record.method in names()
    terms = [("Result", content.key), *([("File", content.source)] if content.source else [])]
    terms += [
        ("Method", f"{record.method} ({info(record.method).summary})" if known else record.method),
        ("Input", f"{record.input.where}: {record.input.state}"),
        ("Shape", f"{content.shape[0]:,} {words.rows} x {content.shape[1]:,} {words.columns}"),
        ("Scale of the values", f"{record.scale} ({SCALE_WORDS[record.scale]})"),
        ("Seed", "" if record.random_state is None else str(record.random_state)),
    ]
    if record.input.rounding:
        terms.append(("Expected counts", f"rounded to integers ({record.input.rounding})"))
    if record.input.library_genes:
        terms.append(("Library sizes", f"over all {record.input.library_genes:,} genes of raw"))
    if record.transform != "identity":
        terms.append(("Imputed on", f"the {record.transform} of the values; the result is in the unit of the input"))
    kept = "kept as they are" if record.keep_observed else "replaced by the method's estimate"
    terms.append(("Observed values", kept))
    if record.posterior:
        terms.append(("Posterior step", "yes, combined with the cell's own counts"))
    ending = record.convergence
    message = ending.message or ("no iteration needed" if ending.converged else ending.name)
    terms += [
        ("End of the fit", message if ending.converged else f"did not converge: {message}"),
        ("Time", f"{record.seconds:.1f} s" if record.seconds < 120 else f"{record.seconds / 60:.1f} min"),
        ("Peak memory during the fit", f"{record.peak_memory_bytes / 2**20:,.0f} MiB"),
    ]
    for what, unusable in ((words.rows, record.unusable_cells), (words.columns, record.unusable_genes)):
        text = "none"
        if unusable:
            text = f"{len(unusable):,} (filled with {record.unusable_filled_with or 'a fallback'}): "
            text += ", ".join(unusable[:MAX_NAMES]) + (", ..." if len(unusable) > MAX_NAMES else "")
        terms.append((f"{sentence(what)} without an observed value", text))
    further = [*record.outputs, *([f"{record.draws} multiple imputations"] if record.draws else [])]
    if further:
        terms.append(("Further outputs", ", ".join(further)))
    if "missing" in content.measured.genes:
        terms.append(("Missing values before", percent(float(content.measured.genes["missing"].mean()))))
    parameters = [(name, json.dumps(value)) for name, value in record.params.items()]
    table = terms_table(parameters, "Parameters of the method", "parameter", "value")
    folded = (("Parameters", table),) if parameters else ()
    return Section("done", "What was done", terms=terms, folded=folded)


def _scores(content: Content) -> Section | None:
    verdict = content.record.verdict
    if verdict is None or verdict.scores.empty:
        return None
    table = verdict.scores
    table = table.assign(control=table["control"].astype(bool), split=table["split"].astype(int) + 1)
    table = table.assign(name=table["method"].astype(str))
    means = table.groupby(["name", "metric"])["value"].agg(["mean", "std"]).unstack("metric")
    metrics = distinct(table["metric"])
    rows = []
    for name, control in dict(zip(table["name"], table["control"], strict=True)).items():
        cells = [(means.loc[name, ("mean", metric)], means.loc[name, ("std", metric)]) for metric in metrics]
        texts = [f"{text_of(mean)} ± {sd:.1g}" if np.isfinite(sd) else text_of(mean) for mean, sd in cells]
        rows.append([_marked(name, control), *texts])
    titles = (f"{metric} ({direction(metric)})" if direction(metric) else metric for metric in metrics)
    summary = Table("Mean of each score, ± standard deviation over the splits", ("method", *titles), rows)
    caption = "Each point is one split of the data; the bar is the mean. Controls are squares."
    bands = {metric: band for metric in metrics if (band := accepted(metric, verdict.figures))}
    far = _far(table)
    if bands:
        caption += f" The shaded band of {' and '.join(bands)} is what the rule accepts."
    if far.any():
        hidden = distinct(table["name"][far])
        caption += f" {', '.join(hidden)}: far off in some scores, and hidden there until you clear the box."
    chart = Chart("scores", charts.scores(table.assign(far=far), bands), caption)
    return Section("scores", "Held-out scores of the method and the controls", (), (chart,), (summary,))


def _race(content: Content) -> Section | None:
    race, words = content.record.race, content.words
    if race is None or race.candidates.empty:
        return None
    table = race.candidates.assign(control=race.candidates["control"].astype(bool))
    marked = [_marked(name, control) for name, control in zip(table["name"], table["control"], strict=True)]
    titles = {"marked": "candidate", "score": race.metric, "sd": "SD"}
    titles |= {"splits": "splits", "seconds": "seconds", "outcome": "outcome"}
    caption = f"Candidates, their held-out {race.metric} (lower is better) and their outcome"
    candidates = table_of(table.assign(marked=marked), caption, titles)
    scored = table[np.isfinite(table["score"].astype(float))]
    drawn: tuple[Chart, ...] = ()
    if len(scored):
        sd = np.nan_to_num(scored["sd"].astype(float))
        scored = scored.assign(low=scored["score"] - sd, high=scored["score"] + sd)
        scored = scored.assign(far=_far(scored.assign(metric=race.metric, value=scored["score"])))
        columns = ["name", "control", "far", "score", "low", "high", "sd", "splits", "seconds", "outcome"]
        caption = "Mean score and one standard deviation, both relative to a control on the same split."
        if scored["far"].any():
            caption += " Candidates far off are hidden until you clear the box."
        drawn = (Chart("race", charts.race(scored[columns], race.metric), caption),)
    text = [f"Several methods were compared on a sample of the data; {race.winner} won."] if race.winner else []
    text += [f"{sentence(race.instead)}."] if race.instead else []
    if race.out_of_time:
        text.append(f"Time was too short to compare all fully, and may have decided: {', '.join(race.out_of_time)}.")
    terms = [
        (words.rows, text_of(race.cells)),
        (words.columns, text_of(race.genes)),
        *([] if math.isnan(race.budget_minutes) else [("minutes allowed", text_of(race.budget_minutes))]),
        ("seconds taken", text_of(race.seconds)),
        ("seed", str(race.seed)),
    ]
    return Section("race", "How the method was chosen", tuple(text), drawn, (candidates,), terms=terms)


def _marked(name: str, control: bool) -> str:
    return f"{name} (control)" if control else str(name)


def _far(table: pd.DataFrame) -> np.ndarray:
    """Rows of methods so far from the first method that the chart cannot show differences between the others."""
    method = next(iter(table["name"][~table["control"]]), None)
    far = np.zeros(len(table), dtype=bool)
    for metric in table["metric"].unique():
        rows = (table["metric"] == metric).to_numpy()
        means = table[rows].groupby("name")["value"].mean()
        distance = (means - means.get(method, means.median())).abs()
        far[rows] = (table["name"][rows].map(distance) > 3 * distance.median()).to_numpy()
    return far


# -- genes and cells ---------------------------------------------------------------------------------------------------
def _zeros(content: Content) -> Section | None:
    if not content.values.counted:
        return None
    table = content.genes
    confident, raised = (int(np.nansum(table[name])) for name in ("confident", "raised"))
    rows = [
        ["zeros before imputing", percent(float(table["zeros_before"].mean()))],
        ["zeros after imputing (count below 0.5)", percent(float(table["zeros_after"].mean()))],
        ["confident biological zeros", f"{confident:,}"],
        ["of these, imputed above one count", f"{raised:,} ({percent(raised / confident)})" if confident else "none"],
    ]
    if confident and "raised_control" in table and content.record.verdict:
        by_control = int(np.nansum(table["raised_control"]))
        reference = content.record.verdict.reference
        rows.append([f"the same for the control {reference}", f"{by_control:,} ({percent(by_control / confident)})"])
    text = about_zeros(content.record.verdict) if content.record.verdict else ""
    caption = "Each point is a gene. Genes below the dashed line have fewer zeros after imputing than before."
    chart = Chart("zeros", charts.zeros(table, content.words), caption)
    worst = table[table["raised"] > 0].assign(share=lambda rows: rows["raised"] / rows["confident"])
    worst = worst.sort_values(["raised", "share"], ascending=False).head(MAX_RAISED_GENES)
    counts = [
        [str(row.Index), f"{row.confident:,}", f"{row.raised:,}", percent(row.share)] for row in worst.itertuples()
    ]
    titles = ("gene", "confident zeros", "imputed above one count", "share")
    listed = Table(f"The most affected genes come first; at most {MAX_RAISED_GENES} are listed", titles, counts)
    folded = (("Genes with the most confident zeros imputed above one count", listed),) if counts else ()
    summary = Table("Zeros over all genes", ("", "value"), rows)
    about = (f"{sentence(text)}.",) if text else ()
    return Section("zeros", "Zeros before and after", about, (chart,), (summary,), folded=folded)


def _genes(content: Content) -> Section:
    table, words = content.genes, content.words
    unit = "molecules" if content.values.kind == "counts" else "values"
    checked = "explained" in table
    reference = content.record.verdict.reference if content.record.verdict else "the reference"
    smallest, rate = f"{100 * SMALLEST_GAIN:g} %", "false discovery rate 5 %"
    columns = {  # column: title, kind, meaning
        "explained": ("error reduction", "percent", f"how much smaller the held-out error is than that of {reference}"),
        "lower": ("interval from", "percent", "lower end of its 95 % interval"),
        "upper": ("interval to", "percent", "upper end of its 95 % interval"),
        "held_out": (f"held-out {unit}", "number", f"number of held-out {unit} that the error is measured on"),
        "evident": (
            "shown to be better",
            "flag",
            f"the interval is above {smallest}; {rate}",
        ),
        "mean_before": ("mean before", "number", ""),
        "mean_after": ("mean after", "number", ""),
        "zeros_before": ("zeros before", "percent", f"share of the {words.rows}"),
        "zeros_after": ("zeros after", "percent", f"share of the {words.rows} with a value below 0.5"),
        "confident": ("confident zeros", "number", "number of confident biological zeros"),
        "raised": ("imputed above 1", "number", "confident zeros that were imputed above one count"),
        "missing": ("missing before", "percent", f"share of the {words.rows}"),
    }
    columns = {name: column for name, column in columns.items() if name in table}
    text, drawn = [f"Each {words.column} before and after imputing."], []
    if checked:
        better = int(table["evident"].eq(True).sum())
        tested = int(judged(table["held_out"], table["lower"]).sum())
        text = [
            f"The error reduction says how much smaller the held-out error of the method is than that of the control "
            f"{reference}. Above 0, the method predicts the {words.column} better than this control.",
            f"{better:,} of {tested:,} {words.columns} with at least {MIN_HELD_OUT} held-out {unit} are shown to be "
            f"predicted better by more than {smallest} ({rate}). For the others there is no such evidence.",
        ]
        if (table["held_out"] > 0).any() and table["explained"].notna().any():
            sample = f" A sample of {charts.MAX_POINTS:,} is drawn." if len(table) > charts.MAX_POINTS else ""
            spec = charts.reliability(table, words, unit)
            drawn.append(Chart("reliability", spec, f"Each point is a {words.column}.{sample}"))
    if len(table) > MAX_TABLE_GENES:
        by = table["held_out"] if checked else table["mean_before"].abs()
        table = table.loc[by.fillna(0).rank(ascending=False, method="first").le(MAX_TABLE_GENES).to_numpy()]
        most = f"most held-out {unit}" if checked else "highest mean"
        text.append(f"The table holds the {MAX_TABLE_GENES:,} {words.columns} with the {most}.")
    if checked:  # what is shown comes first
        table = table.assign(shown=table["evident"].eq(True)).sort_values(
            ["shown", "lower"], ascending=False, na_position="last", kind="stable"
        )
        text.append(f"The table begins with the {words.columns} that are most surely predicted better.")
    values = [table[name].eq(True) if table[name].dtype == object else table[name] for name in columns]
    live = Live(
        id="genes",
        caption=f"{sentence(words.columns)}{'' if checked else ', before and after'}",
        search=f"Find a {words.column}",
        columns=live_columns((words.column, "text", ""), *columns.values()),
        values=[json_column(table.index.astype(str)), *map(json_column, values)],
    )
    title = f"Reliability of each {words.column}" if checked else sentence(words.columns)
    return Section("genes", title, tuple(text), tuple(drawn), live=live)


def _spread(content: Content) -> Section:
    words, genes, totals = content.words, content.measured.genes, content.measured.totals
    drawn = []
    usable = genes[np.isfinite(genes[["mean_before", "variance_before"]]).all(axis=1)]
    if len(usable):
        spec = charts.mean_variance(usable, words, logged=content.values.kind == "counts")
        drawn.append(Chart("variance", spec, f"Mean and variance of each {words.column}."))
    finite = totals[np.isfinite(totals[["before", "after"]]).all(axis=1)]
    total = "library size" if content.values.counted else "mean"
    if len(finite):
        spec = charts.totals(finite, words, counted=content.values.counted)
        caption = f"{sentence(total)} of each {words.row}. The dashed line means no change."
        drawn.append(Chart("totals", spec, caption))
    numbers = {
        f"mean over {words.columns}, before": genes["mean_before"].mean(),
        f"mean over {words.columns}, after": genes["mean_after"].mean(),
        f"median variance of {words.columns}, before": genes["variance_before"].median(),
        f"median variance of {words.columns}, after": genes["variance_after"].median(),
        f"median {total} of {words.rows}, before": totals["before"].median(),
        f"median {total} of {words.rows}, after": totals["after"].median(),
    }
    rows = [[name, text_of(value)] for name, value in numbers.items()]
    title = f"{sentence(words.columns)} and {words.rows} before and after"
    return Section("spread", title, (), tuple(drawn), (Table("Summary", ("", "value"), rows),))


def _embedding(content: Content) -> Section:
    words, table, map = content.words, content.measured.embedding, content.measured.map.upper()
    title = f"Maps of the {words.rows} before and after"
    if table is None:
        return Section("embedding", title, (f"There are too few {words.rows} or {words.columns} for a map.",))
    label, labelled = content.label, content.labels is not None
    table = table.assign(label=content.labels if labelled else content.measured.totals["before"])
    specs = {when: charts.embedding(table, when, map=map, label=label, words=words) for when in ("before", "after")}
    drawn = tuple(Chart(f"map-{when}", spec, f"{map} {when} imputing.") for when, spec in specs.items())
    rows = [[str(name), f"{size:,}"] for name, size in table["label"].value_counts().items()] if labelled else []
    sizes = Table(f"{sentence(words.rows)} in the maps by {label}", (label, words.rows), rows)
    return Section("embedding", title, (), drawn, folded=(("Labels", sizes),) if labelled else ())


# -- the check ---------------------------------------------------------------------------------------------------------
def _null(content: Content) -> Section | None:
    verdict, words = content.record.verdict, content.words
    if verdict is None or verdict.null.empty:
        return None
    table = verdict.null
    middle = ((table["low"] + table["high"]) / 2).abs()
    rows = []
    for when, strong in zip(("before", "after"), strong_shares(table), strict=True):
        total = max(float(table[when].sum()), 1e-12)
        rows.append([when, f"{float((table[when] * middle).sum()) / total:.3f}", percent(strong / total)])
    titles = ("imputing", "mean absolute correlation", "pairs at ±0.5 or stronger")
    summary = Table(f"Correlations between permuted {words.columns}", titles, rows)
    spec = charts.null(table.assign(low=table["low"].round(4), high=table["high"].round(4)), words)
    caption = f"Share of {words.column} pairs at each correlation. The rule accepts a rise of the mean by up to {NULL}."
    chart = Chart("null", spec, caption)
    return Section("null", "False correlations", (), (chart,), (summary,))


def _calibration(content: Content) -> Section | None:
    verdict = content.record.verdict
    if verdict is None or verdict.calibration.empty:
        return None
    table = verdict.calibration
    strata = [f"{text_of(low)} to {text_of(high)}" for low, high in zip(table["low"], table["high"], strict=True)]
    table = table.assign(stratum=strata)[["stratum", "entries", "coverage"]]
    titles = {"stratum": "predicted mean", "entries": "held-out values", "coverage": "share inside"}
    inside = table_of(table, "Held-out values inside the 90 % interval", titles)
    low, high = (f"{100 * end:.0f}" for end in COVERAGE_RANGE)
    caption = f"The dashed line is 90 %. The shaded band, {low} to {high} %, is what the rule accepts."
    chart = Chart("calibration", charts.calibration(table, COVERAGE, COVERAGE_RANGE), caption)
    return Section("calibration", "Calibration of the intervals", (), (chart,), (inside,))


def _mixing(content: Content) -> Section | None:
    drawn, tables = [], []
    for place, (name, table) in enumerate(content.record.verdict.mixing.items() if content.record.verdict else ()):
        if not len(table):
            continue
        table = table.assign(label=table.index.astype(str))
        titles = {"label": name, "sizes": "cells", "before": "before", "after": "after", "chance": "by chance"}
        tables.append(table_of(table, f"Share of neighbours with the same {name}", titles))
        caption = f"Neighbours with the same {name}. The rule accepts a loss of {100 * MIXED:.0f} percentage points, "
        caption += "on average over the cells."
        drawn.append(Chart(f"mixing-{place}", charts.mixing(table, name), caption))
    if not drawn:
        return None
    return Section("mixing", "Mixing of labels", (), tuple(drawn), tuple(tables))


# -- the fit -----------------------------------------------------------------------------------------------------------
def _history(content: Content) -> Section | None:
    columns: dict[str, np.ndarray] = {}
    for name, array in content.record.history.items():
        if array.ndim == 1 and array.dtype.kind in "fiu" and len(array) > 1 and np.isfinite(array).any():
            columns[name] = array.astype(np.float64)
    if not set(columns) - {"epoch", "iteration", "step"}:
        return None
    length = max(map(len, columns.values()))
    table = pd.DataFrame({name: values for name, values in columns.items() if len(values) == length})
    rows = [[str(name), text_of(values.iloc[0]), text_of(values.iloc[-1])] for name, values in table.items()]
    ends = Table(f"First and last of {length:,} steps", ("quantity", "first", "last"), rows)
    spec = charts.history(table)
    several = len({row["column"] for row in spec["datasets"]["rows"]}) > 1
    caption = "Choose a quantity above the chart." if several else "One point per step."
    return Section("history", "Training history", (), (Chart("history", spec, caption),), (ends,))


def _cite(content: Content) -> Section:
    method = content.record.method
    paper, software = citation.of_method(method), citation.of_imputome()
    raw = [
        ("Command that made this page", content.made_by),
        ("Command that made the result", content.command),
        (f"BibTeX entry of {method}", paper.bibtex if paper else ""),
        ("CITATION.cff of imputome", software),
    ]
    text = ["Please cite imputome and the paper of the method." if paper else "Please cite imputome."]
    if not content.command:
        text.append("The command that made the result was not recorded.")
    versions = list(content.record.versions.items())
    packages = terms_table(versions, "Versions of the packages that were used", "package", "version")
    return Section(
        id="cite",
        title="How to cite and repeat",
        text=tuple(text),
        folded=(("Versions", packages),),
        raw=[(title, block) for title, block in raw if block],
        links=[(paper.text, paper.link)] if paper else [],
    )
