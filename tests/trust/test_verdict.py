"""The rule, criterion by criterion, and the record it leaves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from imputome import methods
from imputome.core.data import as_data
from imputome.result.record import Verdict
from imputome.trust.evidence import gather
from imputome.trust.null import permute_genes
from imputome.trust.verdict import (
    CRITERIA,
    DO_NOT,
    NOTHING_MEASURED,
    NULL_BINS,
    RULE,
    USE,
    VERDICTS,
    VISUALISE,
    WITHHELD,
    about_zeros,
    decide,
    figures,
    in_words,
    measurements,
    verdict_of,
)

GOOD = {
    "counts": {
        "explained": 0.02,
        "explained_lower": 0.018,
        "gain_over_gene_mean": 0.15,
        "gain_over_gene_mean_posterior": 0.02,
        "gain_over_no_imputation": 0.6,
        "gain_over_poisson_nmf": 0.05,
        "evident_genes": 0.3,
        "null_excess": 0.0003,
        "null_strong": 0.0,
        "total_ratio": 1.001,
        "total_noise": 0.0005,
        "confident_zeros": 100.0,
        "raised": 0.1,
        "coverage_lowest": 0.89,
        "coverage_highest": 0.91,
        "separation_change": 0.01,
    },
    "real": {
        "explained": 0.5,
        "explained_lower": 0.45,
        "gain_over_mean": 0.3,
        "gain_over_median": 0.31,
        "evident_genes": 0.8,
        "null_excess": 0.0,
        "null_strong": 0.0,
        "unlinked": 0.02,
        "total_ratio": np.nan,
        "confident_zeros": np.nan,
        "raised": np.nan,
        "coverage_lowest": 0.88,
        "coverage_highest": 0.92,
        "separation_change": np.nan,
    },
}


@pytest.mark.parametrize("kind", ["counts", "real"])
def test_what_could_not_be_measured_is_no_reason_to_impute(kind):
    verdict = decide({**GOOD[kind], "explained": np.nan, "explained_lower": np.nan}, kind)
    assert verdict.verdict == DO_NOT
    assert verdict.reasons[0] == NOTHING_MEASURED


@pytest.mark.parametrize("kind", ["counts", "real"])
def test_all_met_is_use(kind):
    verdict = decide(GOOD[kind], kind)
    assert verdict.verdict == USE
    assert verdict.failed == ()
    assert len(verdict.reasons) >= 5 if kind == "counts" else 3


@pytest.mark.parametrize(
    ("kind", "change", "criterion", "expected"),
    [
        ("counts", {"explained": 0.0019}, "structure", DO_NOT),
        ("counts", {"explained_lower": -0.001}, "structure", DO_NOT),
        ("counts", {"gain_over_poisson_nmf": 0.0}, "controls", DO_NOT),
        ("counts", {"gain_over_no_imputation": 0.049}, "raw counts", DO_NOT),
        ("counts", {"null_excess": 0.051}, "null", VISUALISE),
        ("counts", {"total_ratio": 1.022}, "totals", VISUALISE),
        ("counts", {"total_ratio": 0.978}, "totals", VISUALISE),
        ("counts", {"coverage_lowest": 0.849}, "intervals", VISUALISE),
        ("counts", {"coverage_highest": 0.951}, "intervals", VISUALISE),
        ("counts", {"separation_change": -0.051}, "labels", VISUALISE),
        ("real", {"explained_lower": -0.01}, "structure", DO_NOT),
        ("real", {"gain_over_median": -0.01}, "controls", DO_NOT),
        ("real", {"explained": 0.09, "explained_lower": 0.05}, "information", VISUALISE),
        ("real", {"null_excess": 0.2}, "null", VISUALISE),
        ("real", {"coverage_lowest": 0.8}, "intervals", VISUALISE),
        ("real", {"unlinked": 0.051}, "pattern", WITHHELD),
    ],
)
def test_one_criterion_not_met_decides(kind, change, criterion, expected):
    measured = {**GOOD[kind], **change}
    verdict = decide(measured, kind)
    assert verdict.verdict == expected
    assert verdict.failed == (criterion,)
    # its sentence stands first, and without it the verdict is another
    assert verdict.reasons[0] not in decide(measured, kind, without=[criterion]).reasons
    assert decide(measured, kind, without=[criterion]).verdict == USE


@pytest.mark.parametrize(
    ("lower", "explained", "upper", "words"),
    [
        (-0.147, -0.136, -0.125, ("13.6 % above", "14.7 % above to 12.5 % above")),
        (-0.011, 0.02, 0.031, ("2.0 % below", "1.1 % above to 3.1 % below")),
        (0.0, 0.0, 0.0, ("equal to", "equal to equal")),
    ],
)
def test_an_error_and_its_interval_are_in_the_same_words(lower, explained, upper, words):
    measured = {**GOOD["counts"], "explained": explained, "explained_lower": lower, "explained_upper": upper}
    sentence = next(each for each in decide(measured, "counts").reasons if "gene_mean_posterior (95" in each)
    assert all(each in sentence for each in words)


def test_the_worst_decides():
    measured = {**GOOD["counts"], "null_excess": 0.3, "explained": -0.1, "explained_lower": -0.2}
    verdict = decide(measured, "counts")
    assert verdict.verdict == DO_NOT
    assert verdict.failed == ("structure", "null")
    assert decide(measured, "counts", without=["structure"]).verdict == VISUALISE


def test_what_was_not_measured_is_not_held_against_it():
    names = ("coverage_lowest", "coverage_highest", "separation_change", "total_ratio")
    verdict = decide({**GOOD["counts"], **dict.fromkeys(names, np.nan)}, "counts")
    assert verdict.verdict == USE
    assert not any("nan" in reason for reason in verdict.reasons)


def test_counting_noise_is_no_wrong_total():
    measured = {**GOOD["counts"], "total_ratio": 1.03}
    assert decide({**measured, "total_noise": 0.004}, "counts").failed == ("totals",)
    assert decide({**measured, "total_noise": 0.006}, "counts").verdict == USE


def test_figures_stand_in_the_reasons():
    text = " ".join(decide({**GOOD["counts"], "null_excess": 0.31, "explained": 0.0234}, "counts").reasons)
    for part in ("2.3 %", "1.8 %", "60.0 %", "0.31", "100.1 %", "89.0 %", "91.0 %", "+1.0 "):
        assert part in text


def test_criteria_name_what_they_are_for():
    for kind in ("counts", "real"):
        names = [one.name for one in CRITERIA if kind in one.kinds]
        assert len(names) == len(set(names))
    assert {one.at_best for one in CRITERIA} == set(VERDICTS) - {USE}


@pytest.fixture(scope="module")
def evidence():
    """Of a method that finds the structure, of the same on permuted genes, and of one that makes correlations."""
    rng = np.random.default_rng(0)
    kind = rng.integers(3, size=400)
    rate = 3 * rng.gamma(2.0, 1.0, 80) * np.where(np.arange(80) % 6 == kind[:, None], 5.0, 1.0)
    bursts = rng.gamma(2.0, 0.5, rate.shape)
    data = as_data(sp.csr_array(rng.poisson(rate * bursts).astype(np.float32)), kind="counts")

    def gathered(data, **params):
        def predicting(name, **params):
            return lambda data: methods.get(name)(**params).fit_transform(data)

        controls = {name: predicting(name) for name in methods.controls("counts")}
        return gather(
            data,
            predicting("poisson_nmf", n_components=4, **params),
            method="factors",
            controls=controls,
            reference=methods.REFERENCE["counts"],
            rng=np.random.default_rng(1),
            labels={"type": kind},
            n_splits=2,
        )

    shuffled = permute_genes(data, np.random.default_rng(2))
    return {
        "structure": gathered(data, posterior=True),
        "permuted": gathered(shuffled, posterior=True),
        "smooth": gathered(shuffled),
    }


def test_structure_is_used_and_noise_is_not(evidence):
    assert verdict_of(evidence["structure"]).verdict == USE
    assert verdict_of(evidence["permuted"]).verdict == DO_NOT


def test_correlations_from_nothing_are_flagged_and_the_gene_mean_is_not(evidence):
    smooth = verdict_of(evidence["smooth"])
    assert "null" in smooth.failed
    rng = np.random.default_rng(0)
    data = as_data(sp.csr_array(rng.poisson(rng.gamma(2.0, 1.0, 60), (200, 60)).astype(np.float32)), kind="counts")
    controls = {
        name: lambda data, name=name: methods.get(name)().fit_transform(data) for name in methods.controls("counts")
    }
    mean = gather(
        data,
        lambda data: methods.get("gene_mean")().fit_transform(data),
        method="the gene mean",
        controls=controls,
        reference="gene_mean_posterior",
        rng=rng,
        n_splits=1,
    )
    assert "null" not in verdict_of(mean).failed


def test_figures_are_those_of_the_evidence(evidence):
    one = evidence["structure"]
    measured = figures(one)
    scores = one.scores[one.scores["metric"] == "poisson_deviance"].pivot(
        index="split", columns="method", values="value"
    )
    gain = 1 - scores["factors"] / scores["gene_mean_posterior"]
    assert measured["gain_over_gene_mean_posterior"] == pytest.approx(gain.mean())
    assert measured["explained"] == pytest.approx(gain.mean(), rel=0.05)  # the same, pooled over splits
    assert measured["separation_change"] > 0


def test_the_record_goes_into_a_file(evidence, tmp_path):
    import anndata as ad

    one = evidence["structure"]
    verdict = verdict_of(one, seed=3)
    assert verdict.null["before"].sum() == pytest.approx(1)
    assert len(verdict.null) == NULL_BINS
    assert {"explained", "evident", "zeros_before", "zeros_after", "confident", "raised"} <= set(verdict.genes)
    adata = ad.AnnData(np.zeros((2, 2)), uns={"imputome": {"key": {"verdict": verdict.to_uns()}}})
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = Verdict.from_uns(ad.read_h5ad(tmp_path / "a.h5ad").uns["imputome"]["key"]["verdict"])
    assert (read.verdict, read.reasons, read.failed) == (USE, verdict.reasons, ())
    assert (read.rule, read.method, read.seed, read.fits) == (RULE, "factors", 3, one.fits)
    assert read.figures == pytest.approx(verdict.figures, nan_ok=True)
    pd.testing.assert_frame_equal(read.genes, verdict.genes, check_names=False)
    pd.testing.assert_frame_equal(read.scores, verdict.scores, check_names=False, check_index_type=False)
    pd.testing.assert_frame_equal(read.calibration, verdict.calibration, check_names=False, check_index_type=False)
    assert set(read.mixing["type"].columns) == {"sizes", "before", "after", "chance"}
    twice = verdict_of(replace(one, genes=pd.Index(["same"] * len(one.genes)))).genes
    np.testing.assert_array_equal(twice["zeros_before"], verdict.genes["zeros_before"])


# -- in plain words ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["counts", "real"])
def test_marks_are_those_of_the_criteria_and_what_failed_comes_first(kind):
    good = decide(GOOD[kind], kind)
    lines = measurements(good)
    assert all(line.met for line in lines)
    assert len(lines) == len(good.reasons)
    bad = decide({**GOOD[kind], "null_excess": 0.31, "coverage_lowest": 0.5}, kind)
    assert [line.met for line in measurements(bad)] == [False] * 2 + [True] * (len(lines) - 2)
    assert "0.31" in measurements(bad)[0].text


@pytest.mark.parametrize("kind", ["counts", "real"])
def test_every_verdict_has_its_own_sentence_that_never_allows_tests(kind):
    changes = {USE: {}, VISUALISE: {"null_excess": 0.2}, DO_NOT: {"explained_lower": -0.01}}
    changes |= {WITHHELD: {"unlinked": 0.5}} if kind == "real" else {}
    sentences = {}
    for expected, change in changes.items():
        verdict = decide({**GOOD[kind], **change}, kind)
        assert verdict.verdict == expected
        sentences[expected] = in_words(verdict)
    assert len(set(sentences.values())) == len(changes)
    assert all("differential tests" in sentences[name] for name in (USE, VISUALISE))


def test_a_stored_verdict_without_new_figures_has_words_too():
    old = Verdict(USE, ("a reason",), {"explained": 0.026, "confident_zeros": 84.0, "raised": 79 / 84}, rule="3")
    assert "2.6 %" in in_words(old)
    assert "79 " in about_zeros(old)
    assert about_zeros(Verdict(USE)) == ""
    withheld = Verdict(WITHHELD, ("only nonzeros were hidden",), {"total_ratio": 1.0}, ("scheme",))
    assert "only nonzeros were hidden" in [line.text for line in measurements(withheld) if not line.met]
    assert measurements(Verdict(DO_NOT, (NOTHING_MEASURED,), {}, ("structure",)))[0].text == NOTHING_MEASURED


def test_the_control_has_the_confident_zeros_of_the_method(evidence):
    one = evidence["structure"]
    np.testing.assert_array_equal(one.zeros_of_control.confident, one.zeros.confident)
    control = one.zeros_of_control
    assert figures(one)["raised_control"] == pytest.approx(control.raised.sum() / control.confident.sum(), nan_ok=True)
    np.testing.assert_array_equal(verdict_of(one).genes["raised_control"], control.raised)
