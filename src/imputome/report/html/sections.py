"""The sections of the page of one result, from its `Content`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from imputome.evaluation.metrics import COVERAGE
from imputome.report.html import charts
from imputome.report.html.parts import Chart, Live, Section, Table, column, percent, table_of, terms_table, text_of
from imputome.report.html.vega import POINTS
from imputome.trust.reliability import LEAST

if TYPE_CHECKING:
    import pandas as pd

    from imputome.report.html.content import Content

GENES = 20_000  # in the table that is searched, at most
LOWER = ("poisson_deviance", "poisson_loss", "rmse", "mse", "mae", "nrmse")


def sections(content: Content) -> list[Section]:
    """All that there is something to say in, in the order of the page."""
    found = [
        _done(content),
        _scores(content),
        _race(content),
        _zeros(content),
        _genes(content),
        _spread(content),
        _embedding(content),
        _null(content),
        _calibration(content),
        _mixing(content),
        _history(content),
        _cite(content),
    ]
    return [section for section in found if section is not None]


def _done(content: Content) -> Section:
    folded = []
    if content.parameters:
        folded.append(("Parameters", terms_table(content.parameters, "Parameters of the method", "parameter", "value")))
    terms = [("Result", content.key), *([("File", content.source)] if content.source else []), *content.facts]
    if "missing" in content.measured.genes:
        terms.append(("Missing before", percent(float(content.measured.genes["missing"].mean()))))
    return Section("done", "What was done", terms=tuple(terms), folded=tuple(folded))


def _scores(content: Content) -> Section | None:
    table = content.verdict.scores if content.verdict else None
    if table is None or not len(table):
        return None
    table = table.assign(control=table["control"].astype(bool), split=table["split"].astype(int) + 1)
    table = table.assign(name=table["method"].astype(str))
    groups = table.groupby(["name", "metric"], sort=False)["value"].agg(["mean", "std", "count"])
    controls = set(table.loc[table["control"], "name"])
    metrics = list(dict.fromkeys(table["metric"]))
    rows = []
    for name in dict.fromkeys(table["name"]):
        cells = [f"{name} (control)" if name in controls else str(name)]
        for metric in metrics:
            there = (name, metric) in groups.index
            cells.append(_spread_text(*groups.loc[(name, metric)]) if there else text_of(None))
        rows.append(cells)
    shown = Table(
        "Mean of each score, ± standard deviation over the splits",
        ("method", *(_score_name(metric) for metric in metrics)),
        rows,
        (False, *(True for _ in metrics)),
    )
    what = "molecules" if content.kind == "counts" else "values"
    text = (
        f"Some of the {what} were hidden, the rest imputed, and the hidden part compared with what came out. A method "
        "that is not better than the controls has found no structure worth using.",
    )
    chart = Chart(
        "scores",
        charts.scores(table.assign(far=_far(table))),
        "Points are splits, the bar is their mean. Controls are squares.",
    )
    return Section("scores", "Held-out scores beside the controls", text, (chart,), (shown,))


def _race(content: Content) -> Section | None:
    told = content.race
    if told is None or not len(told.candidates):
        return None
    table = told.candidates.assign(control=told.candidates["control"].astype(bool))
    titles = {"marked": "candidate", "score": told.metric, "sd": "SD"}
    titles |= {"splits": "splits", "seconds": "seconds", "outcome": "outcome"}
    table = table.assign(marked=_marked(table["name"], table["control"]))
    shown = table_of(table, f"Candidates, their held-out {told.metric} (lower is better) and what came of them", titles)
    drawn = table[np.isfinite(table["score"].astype(float))]
    sd = np.nan_to_num(drawn["sd"].astype(float))
    drawn = drawn.assign(low=drawn["score"] - sd, high=drawn["score"] + sd)
    drawn = drawn.assign(far=_far(drawn.assign(metric=told.metric, value=drawn["score"])))
    wanted = ["name", "control", "far", "score", "low", "high", "sd", "splits", "seconds", "outcome"]
    parts = [
        Chart(
            "race",
            charts.race(drawn[wanted], told.metric),
            "Mean, and one standard deviation either way, both relative to one of the controls on the same split.",
        )
    ]
    text = [f"The method was chosen by trying several on a sample; {told.winner} won."] if told.winner else []
    text += [f"{told.instead[:1].upper()}{told.instead[1:]}."] if told.instead else []
    return Section(
        "race",
        "How the method was chosen",
        tuple(text),
        tuple(parts if len(drawn) else ()),
        (shown,),
        None,
        tuple(content.race_basis),
    )


def _zeros(content: Content) -> Section | None:
    if not content.counted:
        return None
    table = content.genes
    confident, raised = (int(np.nansum(table[name])) for name in ("confident", "raised"))
    share = raised / confident if confident else float("nan")
    frame = [
        ["zeros before", percent(float(table["zeros_before"].mean()))],
        ["values under 0.5 after", percent(float(table["zeros_after"].mean()))],
        ["confident biological zeros", f"{confident:,}"],
        ["of these raised over one count", f"{raised:,} ({percent(share)})" if confident else "none to raise"],
    ]
    text = (
        "A confident biological zero is one that a cell which expresses the gene would have shown by chance less than "
        "once in a hundred. Where many are raised, the method writes genes into cells that do not express them.",
    )
    chart = Chart("zeros", charts.zeros(table, content.words), "Genes under the line have fewer zeros than before.")
    worst = table[table["confident"] > 0].assign(share=lambda rows: rows["raised"] / rows["confident"])
    worst = worst.sort_values(["raised", "share"], ascending=False).head(10)
    worst = worst[worst["raised"] > 0]
    worst = worst.assign(gene=worst.index.astype(str))
    titles = {
        "gene": "gene",
        "confident": "confident zeros",
        "raised": "raised over one count",
        "share": "share raised",
    }
    folded = (("Genes with most confident zeros raised", table_of(worst, "The ten genes with most", titles)),)
    overall = Table("Zeros over all genes", ("what", "how many"), frame, (False, True))
    return Section("zeros", "Zeros before and after", text, (chart,), (overall,), folded=folded if len(worst) else ())


def _genes(content: Content) -> Section:
    table = content.genes
    one, many = content.words[1][:-1], content.words[1]
    unit = "molecules" if content.kind == "counts" else "values"
    known = "explained" in table
    wanted: list[tuple[str, str, str, str]] = []
    if known:
        reference = content.verdict.reference if content.verdict else "the reference"
        wanted += [
            ("explained", "explained", "percent", f"share of the error of {reference} that the method takes away"),
            ("lower", "from", "percent", "lower end of the 95 % interval"),
            ("upper", "to", "percent", "upper end of the 95 % interval"),
            ("held_out", f"held-out {unit}", "number", f"{unit} it rests on"),
            ("evident", "evident", "flag", "shown to be over 0, at a false discovery rate of 5 %"),
        ]
    wanted += [("mean_before", "mean before", "number", ""), ("mean_after", "mean after", "number", "")]
    if content.counted:
        wanted += [
            ("zeros_before", "zeros before", "percent", "share of the cells"),
            ("zeros_after", "zeros after", "percent", "share of the cells with a value under 0.5"),
            ("confident", "confident zeros", "number", ""),
            ("raised", "raised", "number", "confident zeros raised over one count"),
        ]
    wanted += [("missing", "missing before", "percent", f"share of the {content.words[0]}")]
    wanted = [entry for entry in wanted if entry[0] in table]
    text = [
        f"What the method adds to each {one}, and what that rests on." if known else f"Each {one} before and after."
    ]
    if known:
        evident = int(table["evident"].eq(True).sum())
        judged = int((table["held_out"].ge(LEAST) & table["explained"].notna()).sum())
        text.append(
            f"{evident:,} of {judged:,} {many} with enough held out have evidence that the method explains more than "
            "the reference, at a false discovery rate of 5 %. The others were not shown to be better."
        )
    if len(table) > GENES:
        by = table["held_out"] if known else table["mean_before"].abs()
        table = table.loc[by.fillna(0).rank(ascending=False, method="first").le(GENES).to_numpy()]
        text.append(f"The table holds the {GENES:,} {many} with most {'held out' if known else 'expression'}.")
    live = Live(
        id="genes",
        caption=f"{many.capitalize()}{'' if known else ', before and after'}",
        search=f"Find a {one}",
        columns=[{"title": one, "kind": "text", "why": ""}]
        + [{"title": title, "kind": kind, "why": why} for _, title, kind, why in wanted],
        values=[column(table.index.astype(str))] + [column(_plain(table[name])) for name, *_ in wanted],
    )
    drawn = []
    if known and (table["held_out"] > 0).any() and table["explained"].notna().any():
        drawing = charts.reliability(table, content.words, unit)
        drawn.append(Chart("reliability", drawing, f"Each point is a {one}; {POINTS:,} of them if there are more."))
    return Section(
        "genes", "Reliability of each " + one if known else many.capitalize(), tuple(text), tuple(drawn), live=live
    )


def _spread(content: Content) -> Section:
    rows, columns = content.words
    genes, totals = content.measured.genes, content.measured.totals
    parts = []
    usable = genes[np.isfinite(genes[["mean_before", "variance_before"]]).all(axis=1)]
    if len(usable):
        drawing = charts.mean_variance(usable, content.words, logged=content.kind == "counts")
        parts.append(Chart("variance", drawing, f"Variance against mean of {columns}."))
    finite = totals[np.isfinite(totals[["before", "after"]]).all(axis=1)]
    what = "Library size" if content.counted else "Mean"
    if len(finite):
        drawing = charts.totals(finite, content.words, counted=content.counted)
        parts.append(Chart("totals", drawing, f"{what} of {rows}; the dashed line is where nothing changed."))
    told = {
        f"mean over {columns}, before": genes["mean_before"].mean(),
        f"mean over {columns}, after": genes["mean_after"].mean(),
        f"median variance of {columns}, before": genes["variance_before"].median(),
        f"median variance of {columns}, after": genes["variance_after"].median(),
        f"median {what.lower()} of {rows}, before": totals["before"].median(),
        f"median {what.lower()} of {rows}, after": totals["after"].median(),
    }
    shown = Table(
        "In figures", ("what", "value"), [[name, text_of(float(v))] for name, v in told.items()], (False, True)
    )
    text = (
        f"Seen on {len(totals):,} {rows}. Where variance is lost, noise is gone, and perhaps some of what differs "
        f"between {rows} too.",
    )
    return Section("spread", f"{columns.capitalize()} and {rows} before and after", text, tuple(parts), (shown,))


def _embedding(content: Content) -> Section | None:
    table, map = content.measured.embedding, {"pca": "PCA", "umap": "UMAP"}[content.measured.map]
    rows = content.words[0]
    if table is None:
        return Section(
            "embedding", f"{rows.capitalize()} in the plane", (f"Too few {rows} or {content.words[1]} for a map.",)
        )
    labelled = content.labels is not None
    label = content.label or ("library size before" if content.counted else "mean before")
    table = table.assign(label=content.labels if content.labels is not None else content.measured.totals["before"])
    shown = tuple(
        Chart(f"map-{when}", charts.embedding(table, when, map=map, label=label, words=content.words), f"{map} {when}.")
        for when in ("before", "after")
    )
    text = (
        f"{map} of the same {len(table):,} {rows} by values before and after imputing, each by itself, the second "
        f"turned onto the first; coloured by {label}."
        + (" Distances between groups in a UMAP are not to be read." if map == "UMAP" else ""),
        "Point at one to find it in the other map"
        + ("; choose a label in the legend to bring it out." if labelled else "."),
    )
    tables = []
    if content.labels is not None:
        sizes = table["label"].value_counts()
        frame = [[str(name), f"{size:,}"] for name, size in sizes.items()]
        tables = [("Labels", Table(f"{rows.capitalize()} drawn of each {label}", (label, rows), frame, (False, True)))]
    return Section("embedding", f"{rows.capitalize()} in the plane", text, shown, folded=tuple(tables))


def _null(content: Content) -> Section | None:
    table = content.verdict.null if content.verdict else None
    if table is None or not len(table):
        return None
    width = table["high"] - table["low"]
    table = table.assign(low=table["low"].round(4), high=table["high"].round(4))
    middle = (table["low"] + width / 2).abs()
    told = []
    for when in ("before", "after"):
        share = table[when] / max(float(table[when].sum()), 1e-12)
        strong = float(share[middle >= 0.5].sum())
        told.append([when, f"{float((share * middle).sum()):.3f}", percent(strong)])
    shown = Table(
        f"Correlations between permuted {content.words[1]}",
        ("", "mean absolute correlation", "pairs at 0.5 or more, either way"),
        told,
        (False, True, True),
    )
    one = content.words[1]
    text = (
        f"Every one of the {one} was shuffled over {content.words[0]} by itself, so that none has to do with another, "
        "and then imputed. Correlations after that are the method's own work: near 0 is good.",
    )
    chart = Chart("null", charts.null(table, content.words), "Share of pairs in each class of correlation.")
    return Section("null", "Correlations made from nothing", text, (chart,), (shown,))


def _calibration(content: Content) -> Section | None:
    table = content.verdict.calibration if content.verdict else None
    if table is None or not len(table):
        return None
    names = [f"{_end(low)} to {_end(high)}" for low, high in zip(table["low"], table["high"], strict=True)]
    table = table.assign(stratum=names)[["stratum", "entries", "coverage"]]
    titles = {"stratum": "predicted mean", "entries": "entries", "coverage": "share inside"}
    shown = table_of(table, "Held-out values inside the 90 % interval", titles)
    text = ("Nine in ten held-out values should lie in their interval, however high the prediction.",)
    chart = Chart("calibration", charts.calibration(table, COVERAGE), "The dashed line is 90 %.")
    return Section("calibration", "Calibration of intervals", text, (chart,), (shown,))


def _mixing(content: Content) -> Section | None:
    parts, tables = [], []
    for place, (name, table) in enumerate(content.verdict.mixing.items() if content.verdict else ()):
        if not len(table):
            continue
        told = table.assign(label=table.index.astype(str))
        titles = {"label": name, "sizes": "cells", "before": "before", "after": "after", "chance": "by chance"}
        tables.append(table_of(told, f"Neighbours that carry the same {name}", titles))
        parts.append(Chart(f"mixing-{place}", charts.mixing(told, name), f"Neighbours with the same {name}."))
    if not parts:
        return None
    text = (
        "Share of a cell's 15 nearest neighbours that carry its own label. Less after than before: the method moved "
        "different cells together.",
    )
    return Section("mixing", "Mixing of labels", text, tuple(parts), tuple(tables))


def _history(content: Content) -> Section | None:
    table = content.history
    if table is None:
        return None
    last = [
        [str(name), text_of(float(values.iloc[0])), text_of(float(values.iloc[-1]))] for name, values in table.items()
    ]
    shown = Table(f"First and last of {len(table):,} steps", ("column", "first", "last"), last, (False, True, True))
    drawing = charts.history(table)
    several = len({row["column"] for row in drawing["datasets"]["rows"]}) > 1
    what = "Choose a column above the chart." if several else "Step by step."
    chart = Chart("history", drawing, what)
    return Section("history", "Training history", (), (chart,), (shown,))


def _cite(content: Content) -> Section:
    links, raw = [], []
    if content.citation is not None:
        links.append((content.citation.text, content.citation.link))
        if content.citation.bibtex:
            raw.append((f"BibTeX of {content.method}", content.citation.bibtex))
    if content.software:
        raw.append(("CITATION.cff of imputome", content.software))
    if content.command:
        raw.insert(0, ("Command", content.command))
    if content.made_by:
        raw.insert(0, ("Command that made this page", content.made_by))
    text = ["Please cite imputome and the paper of the method." if links else "Please cite imputome."]
    if not content.command:
        text.append("The command that imputed was not recorded.")
    folded = (
        ("Versions", terms_table(content.versions, "Versions of the packages that imputed", "package", "version")),
    )
    return Section("cite", "How to cite and repeat", tuple(text), folded=folded, raw=tuple(raw), links=tuple(links))


# -- texts -------------------------------------------------------------------------------------------------------------
def _marked(names: pd.Series, control: pd.Series) -> list[str]:
    return [f"{name} (control)" if bar else str(name) for name, bar in zip(names, control, strict=True)]


def _far(table: pd.DataFrame) -> np.ndarray:
    """Which methods lie so far from the one judged that they hide the differences between the others."""
    means = table.groupby(["metric", "name"], sort=False)["value"].mean()
    judged = str(table.loc[~table["control"], "name"].iloc[0]) if (~table["control"]).any() else None
    far = set()
    for metric, part in means.groupby(level="metric", sort=False):
        scores = part.droplevel("metric")
        away = (scores - scores.get(judged, scores.median())).abs()
        far |= {(metric, name) for name in away.index[away > 3 * away.median()]}
    return np.array([(metric, name) in far for metric, name in zip(table["metric"], table["name"], strict=True)])


def _score_name(metric: str) -> str:
    better = {"total_ratio": "best at 1", "coverage_90": "best at 0.9"}
    better |= dict.fromkeys(LOWER, "lower is better")
    return f"{metric} ({better[metric]})" if metric in better else metric


def _spread_text(mean: float, sd: float, count: float) -> str:
    return f"{text_of(float(mean))} ± {sd:.1g}" if count > 1 and np.isfinite(sd) else text_of(float(mean))


def _end(value: float) -> str:
    return text_of(float(value))


def _plain(values: pd.Series) -> np.ndarray:
    """The flag ``evident`` of genes that the check did not look at is no."""
    return values.eq(True).to_numpy() if values.dtype == object else values.to_numpy()
