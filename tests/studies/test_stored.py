"""Stored scores: several processes on one table, scores that are of other data, and damaged tables and journals."""

from __future__ import annotations

import dataclasses
import gzip
import json
import multiprocessing
import os
import resource
import signal
import threading
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import imputome
from codes import has_code, warns
from imputome.cli import run
from imputome.core.data import as_data
from imputome.core.locks import locked
from imputome.errors import InputError
from imputome.report.study_page import write_results
from imputome.studies import runner
from imputome.studies.execute import execute
from imputome.studies.inputs import Dataset, MethodSpec
from imputome.studies.results import KEY, Journal, merged, read, table_of, told_apart, write
from imputome.studies.runner import run_study
from imputome.studies.spec import Configuration, Hiding, Study, Subset

FORK = multiprocessing.get_context("fork")  # starts fast
COUNTS = np.random.default_rng(0).poisson(3.0, (30, 8))


def row(method, *, trial=0, value=1.0, status="ok", metric="mse", **other):
    text = {"dataset": "toy", "method": method, "parameters": "{}", "scheme": "thin", "options": "{}", **other}
    cost = {"seconds": 0.5, "peak_bytes": 7, "status": status, "reason": "" if status == "ok" else "it broke"}
    return {
        **text,
        "fraction": 0.1,
        "trial": trial,
        "seed": 3,
        "transform": "",
        "metric": metric,
        "value": value,
        **cost,
    }


def computation(method, **other):
    return [row(method, metric=metric, **other) for metric in ("mse", "mae")]


def keys(table):
    return sorted(map(tuple, table[[*KEY, "metric", "status"]].astype(str).to_numpy()))


# -- several processes -------------------------------------------------------------------------------------------------
def work(output, number, start):
    journal = Journal(output)
    start.wait(10)  # all have looked at the same, empty, place
    for trial in range(5):
        journal.append(computation(f"method {number}", trial=trial))
        journal.append(computation("the same", trial=trial))
    journal.finish()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_four_processes_end_with_what_serial_runs_give(tmp_path, suffix):
    output, serial = tmp_path / f"out{suffix}", tmp_path / f"serial{suffix}"
    write(table_of(computation("from before")), output)
    write(table_of(computation("from before")), serial)
    start = FORK.Barrier(4)
    processes = [FORK.Process(target=work, args=(output, number, start), daemon=True) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for number in range(4):
        work(serial, number, Passed())
    assert keys(read(output)) == keys(read(serial))
    assert len(read(output)) == 2 * (1 + 4 * 5 + 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, serial.name])


class Passed:
    def wait(self, _):
        return


def killed_in_a_line(output):
    journal = Journal(output)
    journal.append(computation("first"))
    with journal.path.open("a") as stream:
        stream.write('[{"dataset": "toy", "met')
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_killed_in_a_line_costs_that_line_only(tmp_path):
    output = tmp_path / "out.csv"
    for _ in range(2):  # the second begins behind the half line of the first
        process = FORK.Process(target=killed_in_a_line, args=(output,), daemon=True)
        process.start()
        process.join(30)
    journal = Journal(output)
    assert len(journal.done) == 1
    journal.append(computation("second"))
    assert len(Journal(output).done) == 2
    assert keys(journal.finish()) == keys(table_of([*computation("first"), *computation("second")]))


def test_a_failure_stays_until_there_are_scores(tmp_path):
    output = tmp_path / "out.csv"
    failed = [row("a", status="failed", metric="", value=float("nan"))]
    for added, expected in (
        (failed, failed),
        (computation("b"), [*failed, *computation("b")]),  # another process
        (failed, [*computation("b"), *failed]),
        (computation("a"), [*computation("a"), *computation("b")]),
        (failed, [*computation("a"), *computation("b")]),
    ):
        journal = Journal(output)
        assert ("a" in {key[1] for key in journal.done}) == (output.exists() and "a" in ok_methods(output))
        journal.append(added)
        journal.finish()
        assert keys(read(output)) == keys(table_of(expected))


def ok_methods(output):
    table = read(output)
    return set(table[table["status"] == "ok"]["method"])


def test_the_first_of_two_equal_scores_stays():
    first, second = computation("a", value=1.0), computation("a", value=2.0)
    assert merged([first, second]) == first


# -- scores of other data ----------------------------------------------------------------------------------------------
@pytest.fixture
def counted(monkeypatch):
    """The methods that were computed, in the order of their computation."""
    computed = []
    impute = runner.impute_split
    monkeypatch.setattr(
        runner, "impute_split", lambda spec, *given: computed.append(spec.label) or impute(spec, *given)
    )
    return computed


def test_scores_are_of_the_data_that_they_were_computed_on(tmp_path, counted):
    """Each change of the data, and of nothing else, computes every score again; the same data none."""
    plain = as_data(COUNTS, kind="counts")
    labels = np.array(["a", "b"] * 15)
    mask = COUNTS > 0
    mask[0, 0] = ~mask[0, 0]
    other = COUNTS.copy()
    other[0, 0] += 1  # the same shape and number of nonzeros
    variants = {
        "plain": Dataset("toy", plain),
        "values": Dataset("toy", as_data(other, kind="counts")),
        "genes": Dataset("toy", as_data(COUNTS, kind="counts", var_names=list("abcdefgh"))),
        "depth": Dataset("toy", dataclasses.replace(plain, library_size=plain.depth + 1)),
        "mask": Dataset(
            "toy", dataclasses.replace(plain, observed=as_data(COUNTS, observed=mask, kind="counts").observed)
        ),
        "labels": Dataset("toy", plain, labels),
        "other labels": Dataset("toy", plain, labels[::-1]),
        "as it was read": Dataset("toy", plain, source={"layer": "two"}),
    }
    output = tmp_path / "out.csv"
    for number, dataset in enumerate(variants.values(), 1):
        for expected in (True, False):
            counted.clear()
            table = run_study(dataset, ["gene_mean"], output=output)
            assert bool(counted) == expected
        assert table["options"].nunique() == number
        alone = run_study(dataset, ["gene_mean"])
        stored = table[table["options"] == alone["options"].iloc[0]]
        np.testing.assert_array_equal(stored["value"].astype(float), alone["value"].astype(float))


def test_another_version_computes_anew(tmp_path, counted, monkeypatch):
    dataset = Dataset("toy", as_data(COUNTS, kind="counts"))
    run_study(dataset, ["gene_mean"], output=tmp_path / "out.csv")
    counted.clear()
    monkeypatch.setattr("imputome.studies.inputs.version", lambda _: "99.0")
    run_study(dataset, ["gene_mean"], output=tmp_path / "out.csv")
    assert counted


def test_arrays_in_parameters_are_told_apart():
    """``str`` of a long array leaves its middle out."""
    parameters = []
    for middle in (0.0, 1.0):
        weights = np.zeros(5000)
        weights[2500] = middle
        parameters.append(MethodSpec("knn", {"weights": weights}).parameters)
    assert parameters[0] != parameters[1]


def test_rows_from_before_there_was_a_digest_are_kept_and_not_taken(tmp_path, counted):
    dataset = Dataset("toy", as_data(COUNTS, kind="counts"))
    table = run_study(dataset, ["gene_mean"])
    settings = json.loads(table["options"].iloc[0])
    old = {name: value for name, value in settings.items() if name not in ("data", "version")}
    old = table.assign(options=json.dumps(old), value=9.0)
    write(old, tmp_path / "out.csv")
    counted.clear()
    both = run_study(dataset, ["gene_mean"], output=tmp_path / "out.csv")
    assert counted
    assert keys(both) == sorted(keys(old) + keys(table))
    names = {text.split("=")[0] for text in told_apart(both)}
    assert names == {"data", "no data"}


def save(path, X, **layers):
    adata = ad.AnnData(X.astype(np.float32), layers=layers)
    adata.obs["type"] = ["a", "b"] * (len(X) // 2)
    adata.write_h5ad(path)


def test_on_the_command_line(tmp_path, capsys, monkeypatch):
    """`--layer two` (10 times X) gave the score of X; a replaced file was pooled with the old one as another trial."""
    monkeypatch.chdir(tmp_path)
    real = np.random.default_rng(1).normal(size=(30, 6))
    save("in.h5ad", real, two=10 * real)
    line = ["evaluate", "in.h5ad", "--methods", "mean", "--scheme", "mcar", "-o", "out.csv", "--json"]

    def scores(*more):
        assert run([*line, *more]) == 0
        table = pd.DataFrame(json.loads(capsys.readouterr().out)["summary"])
        assert (table["n"] == 1).all()
        return table[(table["method"] == "mean") & (table["metric"] == "rmse")]["mean"].tolist()

    first = scores()
    assert scores() == first
    assert scores("--layer", "two") == [*first, pytest.approx(10 * first[0], rel=1e-5)]
    save("in.h5ad", 100 * real, two=real)
    assert scores()[2:] == [pytest.approx(100 * first[0], rel=1e-5)]
    assert run([*line[:-1]]) == 0
    assert "layer=two" in capsys.readouterr().out


# -- studies -----------------------------------------------------------------------------------------------------------
STUDY = Study(
    "made",
    "a made study",
    (Subset("made"),),
    (Hiding("thin", name="molecules"),),
    (Configuration("base", MethodSpec("gene_mean")),),
)


def load(name):
    return ad.AnnData(COUNTS.astype(np.float32))


def test_scores_of_evaluate_in_the_table_of_a_study_are_kept(tmp_path):
    write(table_of(computation("of evaluate")), tmp_path / "results.csv")
    for seed in (0, 1):
        study = dataclasses.replace(STUDY, seed=seed)
        table = execute(study, tmp_path, load=load)
        if seed:  # the rows of seed 0 are not asked for; they stay in the files of the units
            with warns("rows-left-out"):
                write_results(study, table, tmp_path)
        else:
            write_results(study, table, tmp_path)
        stored = read(tmp_path / "results.csv")
        assert keys(stored) == sorted(keys(table) + keys(table_of(computation("of evaluate"))))


def test_the_table_is_written_under_its_lock(tmp_path):
    """A study waits while `imputome evaluate` adds its scores."""
    table = execute(STUDY, tmp_path, load=load)
    process = threading.Thread(target=write_results, args=(STUDY, table, tmp_path))
    with locked(tmp_path / "results.csv"):
        process.start()
        process.join(0.5)
        assert process.is_alive()
        write(table_of(computation("of evaluate")), tmp_path / "results.csv")
    process.join(30)
    assert "of evaluate" in set(read(tmp_path / "results.csv")["method"])


def test_a_study_of_replaced_data_computes_anew(tmp_path, counted):
    first = execute(STUDY, tmp_path, load=load)
    counted.clear()
    again = execute(STUDY, tmp_path, load=load)
    assert not counted
    assert keys(again) == keys(first)
    other = execute(STUDY, tmp_path, load=lambda name: ad.AnnData(COUNTS[::-1].astype(np.float32)))
    assert counted
    assert len(other) == len(first)
    assert set(other["options"]).isdisjoint(first["options"])


@pytest.mark.parametrize("name", ["summary.csv", "claims.csv", f"{STUDY.name}.md"])
def test_a_study_replaces_no_file_of_somebody_else(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, check=has_code("not-a-study-folder")):
        execute(STUDY, tmp_path, load=load)
    assert (tmp_path / name).read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize("name", ["results.csv", f"{STUDY.name}.md"])
def test_a_folder_in_the_place_of_a_file(tmp_path, name):
    execute(STUDY, tmp_path, load=load)
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    with pytest.raises(InputError):
        execute(STUDY, tmp_path, load=load)
    assert (tmp_path / name / "mine").exists()


def test_damaged_files_of_units_are_named(tmp_path):
    execute(STUDY, tmp_path, load=load)
    (part,) = (tmp_path / "parts").glob("*.csv")
    text = part.read_bytes()
    for damaged in (b"", text[: len(text) // 2], b"\0" * 100, text.replace(b"ok", b"\xff\xfe"), b"a,b\n1,2\n"):
        part.write_bytes(damaged)
        with pytest.raises(InputError, match=part.name):
            execute(STUDY, tmp_path, load=load)
    part.unlink()
    execute(STUDY, tmp_path, load=load)


# -- damaged tables and journals ---------------------------------------------------------------------------------------
GOOD = json.dumps(computation("a"))


@pytest.mark.parametrize(
    "line",
    [
        "[1, 2]",
        '{"dataset": "toy"}',
        json.dumps([{"dataset": "toy"}]),
        json.dumps([{**row("a"), "trial": "one"}]),
        json.dumps([{**row("a"), "method": None}]),
        json.dumps([{**row("a"), "value": "1"}]),
        "not json",
        "\udcff\udcfe",
        "[" * 100_000,
        f'[{{"value": {"9" * 5000}}}]',
    ],
    ids=range(10),
)
def test_damaged_journals_are_named(tmp_path, line):
    journal = Journal(tmp_path / "out.csv")
    journal.path.write_bytes(f"{GOOD}\n{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(InputError, check=has_code("journal-damaged"), match=r"\.out\.csv\.journal.*line 2"):
        Journal(tmp_path / "out.csv")


def test_a_journal_that_leads_elsewhere(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    journal = Journal(tmp_path / "out.csv")
    journal.path.symlink_to(victim)
    for use in (lambda: journal.append(computation("a")), lambda: Journal(tmp_path / "out.csv")):
        with pytest.raises(InputError, check=has_code("journal-damaged")):
            use()
    assert victim.read_text() == "mine\n"
    journal.path.unlink()
    os.mkfifo(journal.path)
    with pytest.raises(InputError, check=has_code("journal-damaged")):
        Journal(tmp_path / "out.csv")


def good_table(path):
    write(table_of([*computation("a"), *computation("b")]), path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.tsv.gz", "out.parquet"])
def test_damaged_tables_are_named(tmp_path, name):
    path = tmp_path / name
    whole = good_table(path)
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:middle] + b"\0\xff" * 40 + whole[middle + 80 :], os.urandom(500)):
        path.write_bytes(damaged)
        for use in (read, Journal):
            with pytest.raises(InputError, match=name):
                use(path)
        assert path.read_bytes() == damaged


@pytest.mark.parametrize("column", ["trial", "seed", "value", "peak_bytes"])
def test_words_in_the_place_of_numbers(tmp_path, column):
    path = tmp_path / "out.csv"
    table = table_of(computation("a"))
    table.assign(**{column: "many"}).to_csv(path, index=False)
    with pytest.raises(InputError, check=has_code("not-a-results-table"), match=column):
        read(path)


def test_tables_that_are_no_files(tmp_path, capsys):
    save(tmp_path / "in.h5ad", COUNTS)
    line = ["evaluate", str(tmp_path / "in.h5ad"), "--methods", "gene_mean", "-o"]
    os.mkfifo(tmp_path / "out.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for name in ("out.csv", "zero.csv"):
        assert run([*line, str(tmp_path / name)]) == 1
        assert "[special-file]" in capsys.readouterr().err
        with pytest.raises(InputError, match=name):
            read(tmp_path / name)
    assert (tmp_path / "zero.csv").is_symlink()


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    """Reading stops at the bound; 64 MiB stand for the gigabytes of a real one."""
    monkeypatch.setattr("imputome.studies.results.MAX_TABLE_BYTES", 2**20)
    path = tmp_path / "out.csv.gz"
    path.write_bytes(gzip.compress(b"0" * 2**26, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    with pytest.raises(InputError, check=has_code("not-a-results-table")):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15  # KiB
    assert time.monotonic() - began < 5
    parquet = tmp_path / "out.parquet"
    write(table_of(computation("a")), parquet)
    monkeypatch.setattr("imputome.studies.results.MAX_ROWS", 1)
    with pytest.raises(InputError, check=has_code("not-a-results-table")):
        read(parquet)


# -- names -------------------------------------------------------------------------------------------------------------
NASTY = "[/x]\x1b[31m\nred|<b>"


def test_names_of_files_are_harmless(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = NASTY.replace("/", "") + ".h5ad"
    save(name, COUNTS)
    for source in (name, "[bold]a.h5ad", "[closed]b.h5ad"):
        if source != name:
            save(source, COUNTS)
        assert run(["evaluate", source, "--methods", "gene_mean", "-o", "out.csv"]) == 0
        printed = capsys.readouterr()
        assert "\x1b" not in printed.out
    table = read(tmp_path / "out.csv")
    assert all(text.isprintable() for text in table["dataset"])
    assert table["dataset"].nunique() == 3
    assert "[bold]a" in set(table["dataset"])
    data = imputome.evaluate({NASTY: ad.AnnData(COUNTS.astype(np.float32))}, methods="gene_mean")
    assert data["dataset"].iloc[0].isprintable()
