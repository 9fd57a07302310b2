"""The sections of the page of one result, from its `Content`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imputome.evaluation.metrics import COVERAGE
from imputome.report.before_after import direction, strong_shares
from imputome.report.html import charts, citation
from imputome.report.html.facts import facts, history, parameters, race_basis
from imputome.report.html.parts import (
    Chart,
    Live,
    Section,
    Table,
    column,
    percent,
    sentence,
    table_of,
    terms_table,
    text_of,
)
from imputome.trust.reliability import MIN_HELD_OUT

if TYPE_CHECKING:
    import pandas as pd

    from imputome.report.html.content import Content

TABLE_GENES = 20_000  # in the table that is searched, at most
WORST_GENES = 10


def sections(content: Content) -> list[Section]:
    """All sections that have something to show, in the order of the page."""
    parts = (_done, _scores, _race, _zeros, _genes, _spread, _embedding, _null, _calibration, _mixing, _history, _cite)
    return [section for section in (part(content) for part in parts) if section is not None]


def _done(content: Content) -> Section:
    folded = []
    values = parameters(content.record)
    if values:
        folded.append(("Parameters", terms_table(values, "Parameters of the method", "parameter", "value")))
    terms = [("Result", content.key), *([("File", content.source)] if content.source else [])]
    terms += facts(content.record, shape=content.shape, words=content.words)
    if "missing" in content.measured.genes:
        terms.append(("Missing values before", percent(float(content.measured.genes["missing"].mean()))))
    return Section("done", "What was done", terms=tuple(terms), folded=tuple(folded))


def _scores(content: Content) -> Section | None:
    if content.record.verdict is None or content.record.verdict.scores.empty:
        return None
    table = content.record.verdict.scores
    table = table.assign(control=table["control"].astype(bool), split=table["split"].astype(int) + 1)
    table = table.assign(name=table["method"].astype(str))
    groups = table.groupby(["name", "metric"], sort=False)["value"].agg(["mean", "std", "count"])
    controls = set(table.loc[table["control"], "name"])
    metrics = list(dict.fromkeys(table["metric"]))
    rows = []
    for name in dict.fromkeys(table["name"]):
        cells = [_marked(name, name in controls)]
        for metric in metrics:
            measured = (name, metric) in groups.index
            cells.append(_mean_and_sd(*groups.loc[(name, metric)]) if measured else text_of(None))
        rows.append(cells)
    means = Table(
        "Mean of each score, ± standard deviation over the splits",
        ("method", *(_score_title(metric) for metric in metrics)),
        rows,
        (False, *(True for _ in metrics)),
    )
    hidden = "molecules" if content.kind == "counts" else "values"
    text = (
        f"Some of the {hidden} were held out, the others were imputed, and the result was compared with the held-out "
        f"{hidden}. Controls are simple alternatives: a method that is not better than all of them is of no use here.",
    )
    caption = "Each point is one split of the data, the bar is the mean. Controls are squares."
    chart = Chart("scores", charts.scores(table.assign(far=_far(table))), caption)
    return Section("scores", "Held-out scores of the method and the controls", text, (chart,), (means,))


def _race(content: Content) -> Section | None:
    race = content.record.race
    if race is None or race.candidates.empty:
        return None
    table = race.candidates.assign(control=race.candidates["control"].astype(bool))
    marked = [_marked(name, control) for name, control in zip(table["name"], table["control"], strict=True)]
    titles = {"marked": "candidate", "score": race.metric, "sd": "SD"}
    titles |= {"splits": "splits", "seconds": "seconds", "outcome": "outcome"}
    caption = f"Candidates, their held-out {race.metric} (lower is better) and their outcome"
    candidates = table_of(table.assign(marked=marked), caption, titles)
    scored = table[np.isfinite(table["score"].astype(float))]
    sd = np.nan_to_num(scored["sd"].astype(float))
    scored = scored.assign(low=scored["score"] - sd, high=scored["score"] + sd)
    scored = scored.assign(far=_far(scored.assign(metric=race.metric, value=scored["score"])))
    drawn: tuple[Chart, ...] = ()
    if len(scored):
        names = ["name", "control", "far", "score", "low", "high", "sd", "splits", "seconds", "outcome"]
        caption = "Mean score and one standard deviation, both relative to a control on the same split."
        drawn = (Chart("race", charts.race(scored[names], race.metric), caption),)
    text = [f"Several methods were compared on a sample of the data; {race.winner} won."] if race.winner else []
    text += [f"{sentence(race.instead)}."] if race.instead else []
    terms = tuple(race_basis(race, words=content.words))
    return Section("race", "How the method was chosen", tuple(text), drawn, (candidates,), terms=terms)


def _zeros(content: Content) -> Section | None:
    if not content.counted:
        return None
    table = content.genes
    confident, raised = (int(np.nansum(table[name])) for name in ("confident", "raised"))
    rows = [
        ["zeros before imputing", percent(float(table["zeros_before"].mean()))],
        ["zeros after imputing (count below 0.5)", percent(float(table["zeros_after"].mean()))],
        ["confident biological zeros", f"{confident:,}"],
        ["of these, imputed above one count", f"{raised:,} ({percent(raised / confident)})" if confident else "none"],
    ]
    text = (
        "A confident biological zero is very unlikely to be a dropout: in a cell that expresses the gene, a zero would "
        "have a probability below 1 %. If many of them are imputed above one count, the method adds expression to "
        "cells that do not express the gene.",
    )
    caption = "Each point is a gene. Genes below the dashed line have fewer zeros after imputing than before."
    chart = Chart("zeros", charts.zeros(table, content.words), caption)
    worst = table[table["raised"] > 0].assign(share=lambda rows: rows["raised"] / rows["confident"])
    worst = worst.sort_values(["raised", "share"], ascending=False).head(WORST_GENES)
    counts = [
        [str(name), f"{row.confident:,}", f"{row.raised:,}", percent(row.share)]
        for name, row in zip(worst.index, worst.itertuples(), strict=True)
    ]
    titles = ("gene", "confident zeros", "imputed above one count", "share")
    listed = Table(f"At most {WORST_GENES} genes", titles, counts, (False, True, True, True))
    folded = (("Genes with the most confident zeros imputed above one count", listed),) if counts else ()
    summary = Table("Zeros over all genes", ("", "number"), rows, (False, True))
    return Section("zeros", "Zeros before and after", text, (chart,), (summary,), folded=folded)


def _genes(content: Content) -> Section:
    table, words = content.genes, content.words
    unit = "molecules" if content.kind == "counts" else "values"
    checked = "explained" in table
    reference = content.record.verdict.reference if content.record.verdict else "the reference"
    # (column, title, kind, meaning)
    columns = [
        ("explained", "error reduction", "percent", f"share of the held-out error of {reference} that is removed"),
        ("lower", "from", "percent", "lower end of its 95 % interval"),
        ("upper", "to", "percent", "upper end of its 95 % interval"),
        ("held_out", f"held-out {unit}", "number", f"number of held-out {unit} that the error is measured on"),
        ("evident", "shown to be better", "flag", "the interval is above 0, at a false discovery rate of 5 %"),
        ("mean_before", "mean before", "number", ""),
        ("mean_after", "mean after", "number", ""),
        ("zeros_before", "zeros before", "percent", f"share of the {words.rows}"),
        ("zeros_after", "zeros after", "percent", f"share of the {words.rows} with a value below 0.5"),
        ("confident", "confident zeros", "number", "number of confident biological zeros"),
        ("raised", "imputed above 1", "number", "confident zeros that were imputed above one count"),
        ("missing", "missing before", "percent", f"share of the {words.rows}"),
    ]
    columns = [entry for entry in columns if entry[0] in table]
    text, drawn = [f"Each {words.column} before and after imputing."], []
    if checked:
        better = int(table["evident"].eq(True).sum())
        tested = int((table["held_out"].ge(MIN_HELD_OUT) & table["explained"].notna()).sum())
        text = [
            f"The error reduction is the share of the held-out error of {reference} that the method removes. Above 0, "
            f"the method predicts the {words.column} better than {reference}.",
            f"{better:,} of {tested:,} {words.columns} with at least {MIN_HELD_OUT} held-out {unit} are shown to be "
            "predicted better, at a false discovery rate of 5 %. For the others there is no such evidence.",
        ]
        if (table["held_out"] > 0).any() and table["explained"].notna().any():
            some = f" A sample of {charts.MAX_POINTS:,} is drawn." if len(table) > charts.MAX_POINTS else ""
            spec = charts.reliability(table, words, unit)
            drawn.append(Chart("reliability", spec, f"Each point is a {words.column}.{some}"))
    if len(table) > TABLE_GENES:
        by = table["held_out"] if checked else table["mean_before"].abs()
        table = table.loc[by.fillna(0).rank(ascending=False, method="first").le(TABLE_GENES).to_numpy()]
        most = f"most held-out {unit}" if checked else "highest mean"
        text.append(f"The table holds the {TABLE_GENES:,} {words.columns} with the {most}.")
    live = Live(
        id="genes",
        caption=f"{words.columns.capitalize()}{'' if checked else ', before and after'}",
        search=f"Find a {words.column}",
        columns=[{"title": words.column, "kind": "text", "why": ""}]
        + [{"title": title, "kind": kind, "why": why} for _, title, kind, why in columns],
        values=[column(table.index.astype(str))] + [column(_flags(table[name])) for name, *_ in columns],
    )
    title = f"Reliability of each {words.column}" if checked else words.columns.capitalize()
    return Section("genes", title, tuple(text), tuple(drawn), live=live)


def _spread(content: Content) -> Section:
    words, genes, totals = content.words, content.measured.genes, content.measured.totals
    drawn = []
    usable = genes[np.isfinite(genes[["mean_before", "variance_before"]]).all(axis=1)]
    if len(usable):
        spec = charts.mean_variance(usable, words, logged=content.kind == "counts")
        drawn.append(Chart("variance", spec, f"Mean and variance of each {words.column}."))
    finite = totals[np.isfinite(totals[["before", "after"]]).all(axis=1)]
    total = "library size" if content.counted else "mean"
    if len(finite):
        spec = charts.totals(finite, words, counted=content.counted)
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
    rows = [[name, text_of(float(value))] for name, value in numbers.items()]
    text = (
        f"Measured on {len(totals):,} {words.rows}. Imputing removes noise, which lowers the variance. It may also "
        f"remove real differences between {words.rows}.",
    )
    title = f"{words.columns.capitalize()} and {words.rows} before and after"
    return Section("spread", title, text, tuple(drawn), (Table("Summary", ("", "value"), rows, (False, True)),))


def _embedding(content: Content) -> Section | None:
    words, table, map = content.words, content.measured.embedding, content.measured.map.upper()
    title = f"Maps of the {words.rows} before and after"
    if table is None:
        return Section("embedding", title, (f"There are too few {words.rows} or {words.columns} for a map.",))
    labelled = content.labels is not None
    label = content.label or ("library size before" if content.counted else "mean before")
    table = table.assign(label=content.labels if labelled else content.measured.totals["before"])
    drawn = [
        Chart(f"map-{when}", charts.embedding(table, when, map=map, label=label, words=words), f"{map} {when}.")
        for when in ("before", "after")
    ]
    text = (
        f"{map} of the same {len(table):,} {words.rows}, once from the values before imputing and once from those "
        f"after. The second map is rotated to match the first. {words.rows.capitalize()} are coloured by {label}."
        + (" In a UMAP, distances between groups have no meaning." if map == "UMAP" else ""),
        f"Point at a {words.row} to see it in the other map."
        + (" Choose a label in the legend to highlight it." if labelled else ""),
    )
    folded = []
    if labelled:
        rows = [[str(name), f"{size:,}"] for name, size in table["label"].value_counts().items()]
        caption = f"{words.rows.capitalize()} in the maps by {label}"
        folded = [("Labels", Table(caption, (label, words.rows), rows, (False, True)))]
    return Section("embedding", title, text, tuple(drawn), folded=tuple(folded))


def _null(content: Content) -> Section | None:
    if content.record.verdict is None or content.record.verdict.null.empty:
        return None
    table, words = content.record.verdict.null, content.words
    middle = ((table["low"] + table["high"]) / 2).abs()
    rows = []
    for when, strong in zip(("before", "after"), strong_shares(table), strict=True):
        total = max(float(table[when].sum()), 1e-12)
        rows.append([when, f"{float((table[when] * middle).sum()) / total:.3f}", percent(strong / total)])
    summary = Table(
        f"Correlations between permuted {words.columns}",
        ("imputing", "mean absolute correlation", "pairs at ±0.5 or stronger"),
        rows,
        (False, True, True),
    )
    text = (
        f"The values of every {words.column} were permuted over the {words.rows}, so that the {words.columns} are no "
        "longer correlated, and then imputed. Correlations after imputing are false: the method created them. They "
        "should be close to 0.",
    )
    spec = charts.null(table.assign(low=table["low"].round(4), high=table["high"].round(4)), words)
    chart = Chart("null", spec, f"Share of the pairs of {words.columns} by their correlation.")
    return Section("null", "False correlations", text, (chart,), (summary,))


def _calibration(content: Content) -> Section | None:
    if content.record.verdict is None or content.record.verdict.calibration.empty:
        return None
    table = content.record.verdict.calibration
    ends = zip(table["low"], table["high"], strict=True)
    strata = [f"{text_of(float(low))} to {text_of(float(high))}" for low, high in ends]
    table = table.assign(stratum=strata)[["stratum", "entries", "coverage"]]
    titles = {"stratum": "predicted mean", "entries": "held-out values", "coverage": "share inside"}
    inside = table_of(table, "Held-out values inside the 90 % interval", titles)
    text = ("Nine in ten held-out values should lie inside their 90 % interval, at every level of the predicted mean.",)
    chart = Chart("calibration", charts.calibration(table, COVERAGE), "The dashed line is 90 %.")
    return Section("calibration", "Calibration of the intervals", text, (chart,), (inside,))


def _mixing(content: Content) -> Section | None:
    drawn, tables = [], []
    for place, (name, table) in enumerate(content.record.verdict.mixing.items() if content.record.verdict else ()):
        if not len(table):
            continue
        table = table.assign(label=table.index.astype(str))
        titles = {"label": name, "sizes": "cells", "before": "before", "after": "after", "chance": "by chance"}
        tables.append(table_of(table, f"Share of neighbours with the same {name}", titles))
        drawn.append(Chart(f"mixing-{place}", charts.mixing(table, name), f"Neighbours with the same {name}."))
    if not drawn:
        return None
    text = (
        "Share of the 15 nearest neighbours of a cell that have the same label as the cell. If it is lower after "
        "imputing than before, the method has mixed different cells.",
    )
    return Section("mixing", "Mixing of labels", text, tuple(drawn), tuple(tables))


def _history(content: Content) -> Section | None:
    table = history(content.record)
    if table is None:
        return None
    rows = [[str(name), *(text_of(float(values.iloc[end])) for end in (0, -1))] for name, values in table.items()]
    ends = Table(f"First and last of {len(table):,} steps", ("quantity", "first", "last"), rows, (False, True, True))
    spec = charts.history(table)
    several = len({row["column"] for row in spec["datasets"]["rows"]}) > 1
    caption = "Choose a quantity above the chart." if several else "One point per step."
    return Section("history", "Training history", (), (Chart("history", spec, caption),), (ends,))


def _cite(content: Content) -> Section:
    links, raw = [], []
    if content.made_by:
        raw.append(("Command that made this page", content.made_by))
    if content.command:
        raw.append(("Command that imputed", content.command))
    paper, software = citation.of_method(content.record.method), citation.of_imputome()
    if paper is not None:
        links.append((paper.text, paper.link))
        if paper.bibtex:
            raw.append((f"BibTeX entry of {content.record.method}", paper.bibtex))
    if software:
        raw.append(("CITATION.cff of imputome", software))
    text = ["Please cite imputome and the paper of the method." if links else "Please cite imputome."]
    if not content.command:
        text.append("The command that imputed was not recorded.")
    versions = list(content.record.versions.items())
    packages = terms_table(versions, "Versions of the packages that were used", "package", "version")
    folded = (("Versions", packages),)
    return Section("cite", "How to cite and repeat", tuple(text), folded=folded, raw=tuple(raw), links=tuple(links))


# -- texts -------------------------------------------------------------------------------------------------------------
def _marked(name: str, control: bool) -> str:
    return f"{name} (control)" if control else str(name)


def _score_title(metric: str) -> str:
    text = direction(metric)
    return f"{metric} ({text})" if text else metric


def _mean_and_sd(mean: float, sd: float, count: float) -> str:
    return f"{text_of(float(mean))} ± {sd:.1g}" if count > 1 and np.isfinite(sd) else text_of(float(mean))


def _far(table: pd.DataFrame) -> np.ndarray:
    """Rows of methods so far from the first method that the chart cannot show differences between the others."""
    means = table.groupby(["metric", "name"], sort=False)["value"].mean()
    method = str(table.loc[~table["control"], "name"].iloc[0]) if (~table["control"]).any() else None
    far = set()
    for metric, part in means.groupby(level="metric", sort=False):
        scores = part.droplevel("metric")
        distance = (scores - scores.get(method, scores.median())).abs()
        far |= {(metric, name) for name in distance.index[distance > 3 * distance.median()]}
    return np.array([(metric, name) in far for metric, name in zip(table["metric"], table["name"], strict=True)])


def _flags(values: pd.Series) -> np.ndarray:
    """Values of a column; genes that were not checked have no evidence."""
    return values.eq(True).to_numpy() if values.dtype == object else values.to_numpy()
