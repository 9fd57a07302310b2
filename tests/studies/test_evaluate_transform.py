"""Real values in `evaluate`: imputed and scored on the transform that `impute` takes; which scores say something."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest

import imputome
from codes import has_code, refused, warns
from imputome.cli import run
from imputome.core.data import as_data
from imputome.errors import InputError
from imputome.evaluation.splits import make_split, seed_for
from imputome.methods import get
from imputome.studies import runner
from imputome.studies.inputs import Dataset, MethodSpec
from imputome.studies.results import read, summary, table_of
from imputome.studies.runner import run_study, run_trial
from imputome.studies.spec import Hiding


def heavy(n=120, G=15):
    """Real values whose arcsinh is of rank 2: a few are thousands, as in z-scores of expression."""
    rng = np.random.default_rng(0)
    t = 1.2 * rng.standard_normal((n, 2)) @ rng.standard_normal((2, G)) + 0.3 * rng.standard_normal((n, G))
    t[rng.random((n, G)) < 0.02] *= 6
    X = np.sinh(t)
    X[rng.random((n, G)) < 0.05] = np.nan
    return X


@pytest.fixture(scope="module")
def values():
    return heavy()


def split_of(X, options):
    seed = seed_for("made", "mcar", 0.1, 0, base=0)
    data = as_data(X, kind="real")
    split = make_split("mcar", data, rng=np.random.default_rng(seed), fraction=0.1, **options)
    return split


def by_hand(X, predicted, forward, options):
    """The errors of ``predicted(training values on the transform)``, in plain NumPy."""
    split = split_of(X, options)
    train = forward(split.train.X)
    predictions, truth = predicted(train)[split.j], forward(split.truth)
    squares = np.empty(len(truth))
    for k, j in enumerate(split.j):
        column = [*train[~np.isnan(train[:, j]), j], *truth[split.j == j]]
        squares[k] = ((truth[k] - predictions[k]) / np.std(column)) ** 2
    back = {np.arcsinh: np.sinh}.get(forward, lambda x: x)
    return np.sqrt(squares.mean()), np.sqrt(np.mean((back(predictions) - split.truth) ** 2))


@pytest.mark.parametrize("options", [{}, {"rows": "all"}])
@pytest.mark.parametrize(
    ("transform", "name", "forward"),
    [(None, "asinh", np.arcsinh), ("asinh", "asinh", np.arcsinh), ("none", "identity", np.asarray)],
)
def test_controls_are_on_the_transform_and_errors_in_its_sd(values, options, transform, name, forward):
    told = []
    data = Dataset("made", as_data(values, kind="real"))
    table = run_study(data, ["knn"], scheme="mcar", transform=transform, options=options, tell=told.append)
    assert set(table["transform"]) == {name}
    assert [message.code for message in told] == (["asinh-chosen"] if transform is None else [])
    scores = table.set_index(["method", "metric"])["value"]
    for method, centre in (("mean", np.nanmean), ("median", np.nanmedian)):
        in_sd, raw = by_hand(values, lambda train, centre=centre: centre(train, axis=0), forward, options)
        assert scores[method, "rmse_sd"] == pytest.approx(in_sd, rel=1e-9)
        assert scores[method, "rmse"] == pytest.approx(raw, rel=1e-9)
    assert table["metric"].iloc[0] == "rmse_sd"
    assert "nrmse" not in set(table["metric"])  # the mean of such values is near 0


def test_it_is_what_impute_takes(values):
    """The same values by `imputome.impute` on the training part give the same score."""
    split = split_of(values, {"rows": "all"})
    train = ad.AnnData(split.train.X)
    with warns("asinh-chosen"):
        imputome.impute(train, method="svd", key_added="k", params={"random_state": 0})
    assert train.uns["imputome"]["k"]["transform"] == "asinh"
    filled, truth = (np.arcsinh(x) for x in (train.layers["k"][split.i, split.j], split.truth))
    known = np.arcsinh(values)
    expected = np.sqrt(np.mean(((filled - truth) / np.nanstd(known, axis=0)[split.j]) ** 2))
    with warns("asinh-chosen"):
        table = imputome.evaluate(
            {"made": ad.AnnData(values)}, methods=["svd:random_state=0"], scheme="mcar", options={"rows": "all"}
        )
    scores = table[table["metric"] == "rmse_sd"].set_index("method")["value"]
    assert scores["svd"] == pytest.approx(expected, rel=1e-6)
    assert scores["svd"] < scores["mean"]


def test_only_the_training_part_chooses(values, monkeypatch):
    """Far values in the hidden part alone call for no transform."""
    seen = []
    original = runner.chosen_link
    monkeypatch.setattr(runner, "chosen_link", lambda data, *more: seen.append(data) or original(data, *more))
    data = Dataset("made", as_data(values, kind="real"))
    run_study(data, ["mean"], scheme="mcar", trials=2, tell=lambda _: None)
    run_study(data, ["mean"], scheme="mcar", options={"rows": "all"}, tell=lambda _: None)
    assert [part.shape[0] for part in seen] == [96, 96, 120]
    hidden = split_of(values, {"rows": "all"})
    assert np.isnan(seen[2].X[hidden.i, hidden.j]).all()


def test_trials_that_share_their_fits_choose_alike(values):
    complete = np.where(np.isnan(values), np.nanmedian(values, axis=0), values)
    data = Dataset("made", as_data(complete, kind="real"))
    splits = [Hiding("mcar", 0.1, scale="zscore")]
    errors = {}
    for transform, name in ((None, "asinh"), ("none", "identity")):
        table = run_trial(data, ["svd"], splits, trial=0, transform=transform)
        assert set(table["transform"]) == {name}
        scores = table[table["metric"] == "rmse"].set_index("method")["value"]
        errors[name] = scores["svd"] / scores["mean"]
    assert errors["asinh"] < errors["identity"]


def test_the_transform_of_an_estimator_is_kept():
    estimator = get("knn")(n_neighbors=3)
    estimator.link = "asinh"
    spec = MethodSpec(estimator)
    assert spec.link == "asinh"
    assert json.loads(spec.parameters) == {"n_neighbors": 3, "link": "asinh"}
    data = Dataset("made", as_data(heavy(), kind="real"))
    table = run_study(data, [estimator], scheme="mcar", transform="none")
    assert table.groupby("method")["transform"].first().to_dict() == {
        **dict.fromkeys(("mean", "median", "random"), "identity"),
        "knn": "asinh",
    }


def test_what_takes_no_transform(values, tmp_path, capsys):
    counts = Dataset("made", as_data(np.ones((6, 4)), kind="counts"))
    with pytest.raises(InputError, check=has_code("transform-needs-real")):
        run_study(counts, ["gene_mean"], transform="asinh")
    with pytest.raises(InputError, check=has_code("unknown-transform")):
        run_study(counts, ["gene_mean"], transform="sqrt")
    assert set(run_study(counts, ["gene_mean"], transform="none")["transform"]) == {""}
    ad.AnnData(values).write_h5ad(tmp_path / "made.h5ad")
    line = ["evaluate", str(tmp_path / "made.h5ad"), "--scheme", "mcar", "--methods", "knn"]
    line += ["-o", str(tmp_path / "out.csv"), "--transform"]
    refused(capsys, run([*line, "sqrt"]), "unknown-transform", "'sqrt'")
    assert run([*line, "auto"]) == 0
    printed = capsys.readouterr()
    assert "imputed on asinh" in printed.out
    assert "--transform none" in printed.err
    assert run([*line, "none"]) == 0  # what the warning advises; rows of another transform are not averaged with it
    printed = capsys.readouterr()
    assert "asinh-chosen" not in printed.err
    both = read(tmp_path / "out.csv")
    assert set(both["transform"]) == {"asinh", "identity"}
    scores = summary(both)
    assert (scores["n"] == 1).all()
    assert scores["options"].nunique() == 2
    for row in scores[scores["metric"] == "rmse_sd"].to_dict("records"):
        same = both[(both["metric"] == "rmse_sd") & (both["options"] == row["options"])].set_index("method")["value"]
        assert row["mean"] == pytest.approx(same[row["method"]])


def test_tables_without_the_column_are_read(tmp_path):
    row = {"dataset": "a", "method": "mean", "parameters": "{}", "scheme": "mcar", "fraction": 0.1, "trial": 0}
    table = table_of([{**row, "options": "{}", "seed": 1, "metric": "rmse", "value": 1.0, "status": "ok"}])
    table.drop(columns="transform").to_csv(tmp_path / "old.csv", index=False)
    assert read(tmp_path / "old.csv")["transform"].tolist() == [""]


@pytest.mark.parametrize(
    ("metric", "marked"),
    [
        *(("poisson_loss", True), ("rmse_sd", True), ("pearson", True), ("ari", True)),
        *(("total_ratio", False), ("share_of_zeros_raised", False), ("mse_log1p", False), ("coverage_90", False)),
        *(("iterations", False), ("seconds", False)),
    ],
)
def test_only_a_contest_is_lost(metric, marked):
    """A control is better here in every metric; all zeros win some, and some have a target."""
    row = {"dataset": "a", "parameters": "{}", "scheme": "thin", "fraction": 0.1, "metric": metric, "status": "ok"}
    good, bad = {"total_ratio": (1, 1.3), "coverage_90": (0.9, 0.6), "pearson": (0.9, 0.1), "ari": (0.9, 0.1)}.get(
        metric, (0.0, 1.0)
    )
    rows = [{**row, "method": "all_zeros", "value": good}, {**row, "method": "ialm", "value": bad}]
    scores = summary(table_of(rows)).set_index("method")
    assert (scores.loc["ialm", "loses_to"] == "all_zeros") == marked
