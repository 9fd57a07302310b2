"""`imputome.score`, and results of other tools in `imputome.evaluate`."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import imputome
from codes import has_code, warns
from imputome.errors import InputError
from imputome.evaluation.masked import read_mask

N, G = 80, 24
RNG = np.random.default_rng(0)
RATES = RNG.gamma(0.5, 4.0, (4, G))[np.arange(N) % 4] * RNG.lognormal(0.5, 0.4, (N, 1))
NAMES = {"obs": pd.DataFrame(index=[f"c{k}" for k in range(N)]), "var": pd.DataFrame(index=[f"g{k}" for k in range(G)])}
COUNTS = ad.AnnData(sp.csr_matrix(RNG.poisson(RATES).astype(np.float32)), **NAMES)
LATENT = RNG.normal(size=(N, 2)) @ RNG.normal(size=(2, G))
REAL = ad.AnnData(LATENT + 0.3 * RNG.normal(size=(N, G)), **NAMES)


def table(values):
    return pd.DataFrame(np.asarray(values), index=NAMES["obs"].index, columns=NAMES["var"].index)


def values_of(frame, method, **also):
    for name, value in also.items():
        frame = frame[frame[name] == value]
    return frame[frame["method"] == method].set_index("metric")["value"]


# -- figures -----------------------------------------------------------------------------------------------------------
def test_counts_against_a_naive_computation():
    masked = imputome.mask(COUNTS, scheme="thin", fraction=0.2, seed=3)
    found = imputome.score(masked, table(0.8 * RATES), name="rates")
    held_out = masked.layers["truth"].toarray()
    seen = np.asarray(masked.X.sum(axis=0)).ravel() > 0
    deviance, molecules, total = [], 0.0, 0.0
    for i in range(N):
        for j in np.flatnonzero(seen):
            x, mu = held_out[i, j], 0.8 * RATES[i, j] * 0.25
            deviance.append(2 * ((x * np.log(x / mu) if x else 0.0) - (x - mu)))
            molecules, total = molecules + x, total + mu
    mine = values_of(found.table, "rates")
    assert mine["poisson_deviance"] == pytest.approx(np.mean(deviance), rel=1e-10)
    assert mine["total_ratio"] == pytest.approx(total / molecules, rel=1e-10)
    assert (found.scale, found.transposed, found.leaked) == ("counts", False, False)
    assert found.hidden == np.count_nonzero(held_out)
    assert set(found.table["status"]) == {"ok"}
    assert {"gene_mean", "gene_mean_posterior", "no_imputation", "all_zeros"} <= set(found.table["method"])
    assert found.verdict.verdict == "use"  # nothing is better than the true rates
    assert found.verdict.figures["explained"] > 0.1
    assert np.isnan(found.verdict.figures["null_excess"])
    gains = 1 - mine["poisson_deviance"] / values_of(found.table, "gene_mean")["poisson_deviance"]
    assert found.verdict.figures["gain_over_gene_mean"] == pytest.approx(gains)


def test_real_values_against_a_naive_computation():
    masked = imputome.mask(REAL, scheme="mcar", seed=3)
    with warns("result-transposed"):
        found = imputome.score(masked, table(LATENT).T, name="latent")
    hidden = masked.layers["hidden"].toarray()
    gap = (LATENT - REAL.X)[hidden]
    sd = np.broadcast_to(REAL.X.std(axis=0), (N, G))[hidden]
    mine = values_of(found.table, "latent")
    assert mine["rmse"] == pytest.approx(np.sqrt(np.mean(gap**2)), rel=1e-10)
    assert mine["rmse_sd"] == pytest.approx(np.sqrt(np.mean((gap / sd) ** 2)), rel=1e-10)
    assert found.transposed
    assert found.verdict.verdict == "use"
    assert {"mean", "median"} <= set(found.table["method"])
    shown = repr(found).splitlines()
    assert len(shown) < 20
    assert found.verdict.verdict in shown[0]
    assert shown[-len({*found.table["method"]}) :][0].split()[:2] == ["latent", f"{mine['rmse_sd']:.4g}"]
    row = found.summary.query("method == 'latent' and metric == 'rmse'").iloc[0]
    assert (row["best"], row["loses_to"]) == (True, "")


@pytest.mark.parametrize(
    ("adata", "scheme", "method", "scale"),
    [
        (COUNTS, "thin", "poisson_nmf+posterior", "log1p"),
        (COUNTS, "random", "gene_mean", "counts"),
        (REAL, "mcar", "svd", None),
    ],
)
def test_a_method_of_ours_as_another_tool_scores_as_itself(adata, scheme, method, scale):
    masked = imputome.mask(adata, scheme=scheme, seed=5)
    given = masked.copy()
    imputome.impute(given, method=method, random_state=5, key_added="ours", keep_observed=False, scale=scale)
    options = {"methods": [method], "scheme": scheme, "seed": 5}
    rows = imputome.evaluate(
        adata, external={"outside": {"result": given, "layer": "ours", "scale": scale}}, masked=masked, **options
    )
    mine, theirs = values_of(rows, method), values_of(rows, "outside")
    assert len(theirs) >= 4
    for metric in theirs.index:
        assert theirs[metric] == pytest.approx(mine[metric], rel=2e-5), metric
    assert rows.loc[rows["method"] == "outside", "seconds"].isna().all()
    # and `score` gives the same rows
    found = imputome.score(masked, given, layer="ours", name="outside", scale=scale, methods=method, random_state=5)
    for name in ("outside", method, "random"):
        pd.testing.assert_series_equal(values_of(found.table, name), values_of(rows, name))


# -- verdicts ----------------------------------------------------------------------------------------------------------
def test_a_tool_that_knows_less_than_the_controls():
    masked = imputome.mask(COUNTS, scheme="thin", fraction=0.2)
    train = np.asarray(masked.X.todense())
    smooth = np.outer(train.sum(axis=1), train.sum(axis=0)) / train.sum()
    found = imputome.score(masked, table(smooth))
    assert found.verdict.verdict == "do not impute"
    assert "structure" in found.verdict.failed
    tripled = imputome.score(masked, table(3 * 0.8 * RATES), scale="counts")
    assert "totals" in tripled.verdict.failed


def test_a_tool_that_saw_the_truth_is_not_judged():
    masked = imputome.mask(COUNTS, scheme="thin", fraction=0.3)
    with warns("truth-returned"):
        found = imputome.score(masked, COUNTS, scale="counts")
    assert found.leaked
    assert found.equal == found.hidden
    assert found.verdict.verdict in ("withheld", "do not impute")
    masked = imputome.mask(REAL, scheme="mcar")
    with warns("truth-returned"):
        assert imputome.score(masked, REAL).verdict.verdict == "withheld"


def test_nonzeros_alone_give_no_verdict():
    masked = imputome.mask(COUNTS, scheme="random", fraction=0.2)
    found = imputome.score(masked, table(RATES), scale="counts")
    assert found.verdict.verdict == "withheld"
    assert set(values_of(found.table, "result").index) >= {"nrmse", "total_ratio", "share_of_zeros_raised"}


def test_values_hidden_at_random_say_little_of_missing_blocks():
    holes = REAL.copy()
    holes.X[:40, :12] = np.nan
    holes.X[40:60, 12:20] = np.nan
    found = imputome.score(imputome.mask(holes, scheme="mcar"), table(LATENT))
    assert found.verdict.verdict == "withheld"
    assert imputome.score(imputome.mask(holes, scheme="blocks"), table(LATENT)).verdict.verdict == "use"


def test_a_part_is_scored_beside_controls_on_the_same_part():
    masked = imputome.mask(COUNTS, scheme="thin", fraction=0.2)
    part = table(0.8 * RATES).iloc[10:, :-3]
    with pytest.raises(InputError, check=has_code("result-lacks-names")):
        imputome.score(masked, part, scale="counts")
    with warns("result-in-part"):
        found = imputome.score(masked, part, scale="counts", partial=True)
    split = read_mask(masked)
    held_out = split.test.toarray()[10:, :-3]
    train = split.train.X.toarray()
    mean = np.outer(train.sum(axis=1), train.sum(axis=0) / train.sum())[10:, :-3] * split.ratio
    expected = mean.sum() / held_out.sum()
    assert values_of(found.table, "gene_mean")["total_ratio"] == pytest.approx(expected, rel=1e-6)


# -- what is refused ---------------------------------------------------------------------------------------------------
def evaluate(masked, adata=COUNTS, **options):
    options = {"methods": "gene_mean", "scheme": "thin", "fraction": 0.2, "seed": 7, **options}
    external = options.pop("external", {"tool": {"result": table(0.8 * RATES), "scale": "counts"}})
    return imputome.evaluate(adata, external=external, masked=masked, **options)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 8},
        {"fraction": 0.1},
        {"scheme": "thin_nb", "options": {"overdispersion": "global"}},
        {"scheme": "random"},
    ],
)
def test_another_mask_is_refused_with_a_remedy_that_works(other):
    masked = imputome.mask(COUNTS, **{"scheme": "thin", "fraction": 0.2, "seed": 7, **other})
    with pytest.raises(InputError, check=has_code("other-mask")) as caught:
        evaluate(masked)
    remedy = dict(caught.value.message.options)
    further = {name: remedy.pop(name) for name in ("overdispersion",) if name in remedy}
    rows = evaluate(masked, **remedy, **({"options": further} if further else {}))
    assert "tool" in set(rows["method"])


def test_other_data_are_refused():
    masked = imputome.mask(COUNTS, scheme="thin", fraction=0.2, seed=7)
    for adata in (COUNTS[:, :20].copy(), COUNTS[::-1].copy()):
        with pytest.raises(InputError, check=has_code("mask-of-other-data")):
            evaluate(masked, adata)
    other = COUNTS.copy()
    other.X = other.X.copy()
    other.X.data[0] += 1
    with pytest.raises(InputError, check=has_code("mask-of-other-data")):
        evaluate(masked, other)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"trials": 2}, "external-one-split"),
        ({"fraction": [0.1, 0.2]}, "external-one-split"),
        ({"scheme": "random", "protocol": "as_published"}, "external-protocol"),
        ({"external": {"gene_mean": table(RATES)}}, "name-taken"),
        ({"external": {" ": table(RATES)}}, "name-taken"),
        ({"external": {"tool": {"result": table(RATES), "unit": "counts"}}}, "unknown-option"),
        ({"external": {"tool": RATES}}, "not-anndata"),
        ({"external": {"tool": table(RATES).rename(columns=str.upper)}}, "names-differ"),
        ({"external": {}}, "option-unused"),
    ],
)
def test_what_cannot_be_compared_is_refused(options, code):
    masked = imputome.mask(COUNTS, scheme="thin", fraction=0.2, seed=7)
    with pytest.raises(InputError, check=has_code(code)):
        evaluate(masked, **options)


def test_what_was_hidden_must_be_known():
    with pytest.raises(InputError, check=has_code("masked-missing")):
        evaluate(None)
    with pytest.raises(InputError, check=has_code("not-a-mask")):
        evaluate(COUNTS)
    with pytest.raises(InputError, check=has_code("not-a-mask")):
        imputome.score(COUNTS, table(RATES))
    masked = imputome.mask(COUNTS, scheme="thin")
    with pytest.raises(InputError, check=has_code("path-instead-of-data")):
        imputome.score(masked, "result.csv")
    with pytest.raises(InputError, check=has_code("layer-missing")):
        imputome.score(masked, masked, layer="magic")
    with pytest.raises(InputError, check=has_code("name-taken")):
        imputome.score(masked, table(RATES), name="knn")
