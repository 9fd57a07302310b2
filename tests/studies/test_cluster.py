"""Studies on other processes: the same numbers, workers that die, runs over their limits, a scheduler's address."""

from __future__ import annotations

import dataclasses
import signal
import sys

import anndata as ad
import numpy as np
import psutil
import pytest

from codes import has_code
from imputome.errors import InputError
from imputome.studies.execute import execute, plan
from imputome.studies.inputs import MethodSpec
from imputome.studies.spec import Configuration, Hiding, Study, Subset
from imputome.studies.units import Limits

pytest.importorskip("distributed")

COUNTS = np.random.default_rng(0).poisson(2.0, (40, 12)).astype(np.float32)
QUICK = MethodSpec("poisson_nmf", {"n_components": 2, "max_iter": 5})
LARGE = np.random.default_rng(1).poisson(2.0, (1500, 400)).astype(np.float32)
# more steps than anybody waits for
ENDLESS = MethodSpec("poisson_nmf", {"n_components": 8, "max_iter": 10**7, "tol": 0.0})
STUDY = Study("made", "a made study", (Subset("counts"),), (Hiding("thin"),), (Configuration("base", QUICK),), trials=3)


@pytest.fixture(scope="module", autouse=True)
def by_value():
    """Workers do not have this module."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def load(name):
    return ad.AnnData(LARGE if name == "large" else COUNTS)


def scores(table):
    table = table[~table["metric"].str.contains("seconds")]
    return table.set_index(["method", "parameters", "trial", "metric"])["value"].sort_index()


def workers():
    return [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


def test_workers_that_are_killed_cost_their_run_only(tmp_path):
    """SIGKILL for all workers after the first run: those that run then are run again, and the numbers are the same."""
    killed, seen = [], []

    def progress(share, text):
        seen.append(text)
        if share > 0 and not killed:
            for worker in workers():
                worker.send_signal(signal.SIGKILL)
                killed.append(worker.pid)

    table = execute(STUDY, tmp_path / "several", load=load, workers=2, progress=progress)
    assert len(killed) == 2
    assert not workers()
    alone = execute(STUDY, tmp_path / "alone", load=load)
    np.testing.assert_allclose(scores(table), scores(alone), rtol=1e-6)
    assert seen[-1].startswith("6 of 6 runs")
    assert not plan(STUDY, tmp_path / "several", load=load).left


def test_a_run_over_its_limit_is_stopped_and_said_once(tmp_path):
    study = dataclasses.replace(
        STUDY,
        datasets=(Subset("large"),),
        configurations=(*STUDY.configurations, Configuration("endless", ENDLESS)),
        trials=1,
    )
    limits = Limits(seconds=3.0)
    table = execute(study, tmp_path, load=load, workers=1, limits=limits)
    # on a busy machine the others may be stopped too
    rows = table[table["parameters"] == ENDLESS.parameters]
    assert (rows["status"].item(), rows["metric"].item(), rows["value"].item()) == ("stopped", "limit_seconds", 3.0)

    def left(limits):
        return {unit.specs[0].parameters for unit in plan(study, tmp_path, load=load, limits=limits).left}

    assert left(limits) == left(Limits(seconds=2.0)) == set()
    # it is run again if it may take longer
    assert ENDLESS.parameters in left(Limits(seconds=4.0)) & left(Limits())


def test_memory_and_a_scheduler_by_its_address(tmp_path):
    from distributed import LocalCluster

    study = dataclasses.replace(
        STUDY,
        datasets=(Subset("large"),),  # on little data the fit ends, and before the first look at the memory
        configurations=(Configuration("endless", ENDLESS),),
        trials=1,
    )
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, local_directory=str(tmp_path)
    ) as cluster:
        table = execute(
            study, tmp_path / "out", load=load, scheduler=cluster.scheduler_address, limits=Limits(bytes=1e6)
        )
    endless = table[table["parameters"] == ENDLESS.parameters]
    assert (endless["status"].item(), endless["metric"].item()) == ("stopped", "limit_bytes")
    assert "0.001 GB" in endless["reason"].item()


def test_wrong_calls(tmp_path):
    with pytest.raises(InputError, check=has_code("no-scheduler")):
        execute(STUDY, tmp_path, load=load, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(InputError, check=has_code("limits-need-workers")):
        execute(STUDY, tmp_path, load=load, limits=Limits(seconds=1.0))
    assert {path.name for path in tmp_path.iterdir()} <= {"parts"}
