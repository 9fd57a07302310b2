"""Saved models that are damaged, crafted, interrupted while they are replaced, or beside files of a person."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import sys
import tracemalloc
import zipfile
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from codes import has_code
from imputome import methods
from imputome.core import atomic
from imputome.core.saved import check_model_path
from imputome.errors import InputError, ModelFormatError

G = 12


def values(seed: int = 0) -> np.ndarray:
    X = np.random.default_rng(seed).normal(size=(20, 2)) @ np.random.default_rng(1).normal(size=(2, G))
    X[3, 4] = np.nan
    return X


def fitted(name: str = "svd", **params):
    return methods.create(name, params).fit(values())


@pytest.fixture
def saved(tmp_path) -> Path:
    fitted(rank=2).save(tmp_path / "model")
    return tmp_path / "model"


def header(folder: Path, **changes) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change(folder: Path, **changes) -> None:
    """Replace arrays of a model; None removes one."""
    with np.load(folder / "arrays.npz") as stored:
        arrays = {name: array for name, array in {**stored, **changes}.items() if array is not None}
    np.savez(folder / "arrays.npz", **arrays)


def npy(shape: tuple[int, ...], content: bytes = b"", descr: str = "'<f8'") -> bytes:
    """An array file that claims a shape."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (63 - (10 + len(text)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + content


def archive(folder: Path, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(folder / "arrays.npz", "w", compression) as stored:
        stored.writestr("center.npy", content)


def deep_json(folder: Path) -> None:
    (folder / "model.json").write_text('{"format": "imputome-model", "params": ' + "[" * 100_000 + "]" * 100_000 + "}")


def no_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


DAMAGES = {
    # the header
    "empty": lambda model: (model / "model.json").write_text(""),
    "truncated": lambda model: os.truncate(model / "model.json", 100),
    "not-utf-8": lambda model: (model / "model.json").write_bytes(b'{"format": "imputome-model", "method": "\xff"}'),
    "deep": deep_json,
    "nan": lambda model: header(model, bounds=[float("nan"), 1.0]),
    "fifo": lambda model: no_file(model, "model.json"),
    "device": lambda model: ((model / "model.json").unlink(), (model / "model.json").symlink_to("/dev/zero")),
    "other-format": lambda model: header(model, format="pickle"),
    "other-version": lambda model: header(model, version=10**30),
    "params-list": lambda model: header(model, params=[]),
    "param-text": lambda model: header(model, params={"rank": {"a": 1}}),
    "param-negative": lambda model: header(model, params={"rank": -5}),
    "param-infinite": lambda model: (model / "model.json").write_text(
        (model / "model.json").read_text().replace('"tol": 0.0001', '"tol": 1e999')
    ),
    "param-huge": lambda model: header(model, params={"max_iter": 10**400}),
    "param-unknown": lambda model: header(model, params={"shell": "rm"}),
    "method-of-list": lambda model: header(model, method=["svd"]),
    "method-unknown": lambda model: header(model, method="x" * 10_000),
    "kind": lambda model: header(model, kind="counts"),
    "bounds-text": lambda model: header(model, bounds=["low", "high"]),
    "bounds-one": lambda model: header(model, bounds=[0.0]),
    "bounds-swapped": lambda model: header(model, bounds=[2.0, 1.0]),
    "features-few": lambda model: header(model, feature_names=["one"]),
    "features-numbers": lambda model: header(model, feature_names=list(range(G))),
    "link": lambda model: header(model, link="exp"),
    "covariates": lambda model: header(model, covariates="batch"),
    "provenance": lambda model: header(model, provenance={"input": [1]}),
    "provenance-genes": lambda model: header(model, provenance={"input": {"library_genes": "many"}}),
    "provenance-mixed": lambda model: header(model, provenance={"shape": [150, [None]]}),
    "provenance-huge": lambda model: header(model, provenance={"seconds": 2**70}),
    "param-without-a-name": lambda model: header(model, params={"": 1}),
    # the archive
    "no-archive": lambda model: (model / "arrays.npz").unlink(),
    "fifo-archive": lambda model: no_file(model, "arrays.npz"),
    "empty-archive": lambda model: (model / "arrays.npz").write_bytes(b""),
    "cut-archive": lambda model: os.truncate(model / "arrays.npz", 700),
    "text-archive": lambda model: (model / "arrays.npz").write_text("nothing " * 100),
    "huge": lambda model: archive(model, npy((10**13,))),
    "huge-itemsize": lambda model: archive(model, npy((10**4,), descr="'<U1000000000'")),
    "overflow": lambda model: archive(model, npy((2**40, 2**40))),
    "negative-shape": lambda model: archive(model, npy((-12,), bytes(96))),
    "compressed": lambda model: archive(model, npy((10**6,), bytes(8 * 10**6)), zipfile.ZIP_DEFLATED),
    "deep-header": lambda model: archive(model, npy((12,), bytes(96), descr="(" * 5000)),
    "no-array": lambda model: archive(model, b"center"),
    # the arrays
    "missing": lambda model: change(model, scale=None),
    "other-name": lambda model: change(model, scale=None, scales=np.ones(G)),
    "short": lambda model: change(model, center=np.ones(G - 1)),
    "matrix": lambda model: change(model, center=np.ones((G, 1))),
    "single": lambda model: change(model, penalty=np.array(0.1)),
    "ranks-differ": lambda model: change(model, penalty=np.ones(3)),
    "text-array": lambda model: change(model, center=np.array(["x"] * G)),
    "objects": lambda model: change(model, center=np.array([None] * G)),
    "complex": lambda model: change(model, center=np.ones(G, complex)),
    "records": lambda model: change(model, center=np.zeros(G, [("a", "f8")])),
    "nan-array": lambda model: change(model, components=np.full((G, 2), np.nan)),
    "infinite": lambda model: change(model, center=np.full(G, np.inf)),
    "zero-scale": lambda model: change(model, scale=np.zeros(G)),
    "zero-penalty": lambda model: change(model, penalty=np.array([0.1, 0.0])),
    "float-rank": lambda model: change(model, rank=np.array(2.5)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_in_one_sentence_that_names_the_file(saved, damage):
    DAMAGES[damage](saved)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFormatError) as caught:
            methods.load(saved)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert str(saved) in text
    assert len(text.splitlines()) == 1
    assert len(text) < 600 + len(str(saved))
    assert "Error" not in text
    assert peak < 2**26


def test_an_archive_whose_arrays_lie_on_each_other_is_refused(saved):
    """Each entry is as large as it says, but all of them are the same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as stored:
        stored.writestr("center.npy", npy((1000,), bytes(8000)))
        for k in range(100):
            twin = zipfile.ZipInfo(f"twin{k}.npy")
            first = stored.filelist[0]
            twin.file_size = twin.compress_size = first.file_size
            twin.CRC, twin.header_offset = first.CRC, first.header_offset
            stored.filelist.append(twin)
            stored.NameToInfo[twin.filename] = twin
    (saved / "arrays.npz").write_bytes(stream.getvalue())
    with pytest.raises(ModelFormatError, check=has_code("unreadable")):
        methods.load(saved)


def test_a_model_of_a_machine_with_other_bytes_is_read(saved):
    expected = methods.load(saved)
    with np.load(saved / "arrays.npz") as stored:
        swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in stored.items()}
    np.savez(saved / "arrays.npz", **swapped)
    loaded = methods.load(saved)
    assert loaded.center_.dtype.isnative
    np.testing.assert_array_equal(loaded.transform(values(5)).to_array(), expected.transform(values(5)).to_array())


def test_a_fit_that_gave_nan_is_not_saved(tmp_path):
    estimator = fitted("mean")
    estimator.center_[2] = np.nan
    with pytest.raises(InputError, check=has_code("model-array-values")):
        estimator.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


# -- what is replaced --------------------------------------------------------------------------------------------------
def test_other_files_in_the_folder_of_a_model_are_named_and_never_removed(saved):
    (saved / "notes.txt").write_text("mine")
    (saved / "model.json.backup").mkdir()
    (saved / "model.json.backup" / "model.json").write_text("mine too")
    with pytest.raises(InputError, check=has_code("foreign-files")) as caught:
        check_model_path(saved, overwrite=True)
    assert "model.json.backup, notes.txt" in str(caught.value)
    fitted("median").save(saved, overwrite=True)  # they came while the model was fitted
    assert methods.load(saved).name == "median"
    assert (saved / "notes.txt").read_text() == "mine"
    assert (saved / "model.json.backup" / "model.json").read_text() == "mine too"


@pytest.mark.parametrize("text", ['{"name": "my web app"}', "[]", "{", ""])
def test_a_folder_with_any_model_json_is_not_a_model(tmp_path, text):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "model.json").write_text(text)
    for act in (
        lambda: check_model_path(tmp_path / "app", overwrite=True),
        lambda: fitted("mean").save(tmp_path / "app", overwrite=True),
    ):
        with pytest.raises(InputError, check=has_code("not-replaceable")):
            act()
    assert (tmp_path / "app" / "model.json").read_text() == text


def test_a_link_to_a_model_stays_and_what_is_no_folder_is_refused(saved):
    link, fifo = saved.with_name("link"), saved.with_name("fifo")
    link.symlink_to("model")
    check_model_path(link, overwrite=True)
    fitted("median").save(link, overwrite=True)
    assert link.is_symlink()
    assert methods.load(saved).name == methods.load(link).name == "median"
    os.mkfifo(fifo)
    with pytest.raises(InputError, check=has_code("special-file")):
        check_model_path(fifo, overwrite=True)


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_fit(saved):
    saved.chmod(0o555)
    with pytest.raises(InputError, check=has_code("folder-not-writable")):
        check_model_path(saved, overwrite=True)
    saved.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
@pytest.mark.parametrize("exchange", [True, False])
def test_a_model_that_is_being_replaced_when_the_process_is_killed_is_the_old_or_the_new_one(
    saved, monkeypatch, exchange
):
    """By SIGKILL at each operation on the disk; then `load`, a check or `save` finds it, wherever it was moved."""
    if not exchange:
        monkeypatch.setattr(atomic, "_renamed", lambda first, second, flag: False)
    old, new = fitted(rank=1), fitted("median")
    found, missing = set(), 0
    for place in count():
        old.save(saved, overwrite=True)
        pid = os.fork()
        if not pid:
            seen = count()

            def hook(event, _, seen=seen, place=place):
                if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "ctypes.dlsym") and next(seen) == place:
                    os.kill(os.getpid(), signal.SIGKILL)

            with suppress(BaseException):
                sys.addaudithook(hook)
                new.save(saved, overwrite=True)
            os._exit(0)
        killed = os.waitpid(pid, 0)[1]
        missing += not saved.exists()
        if place % 2:
            with pytest.raises(InputError, check=has_code("output-exists")):
                check_model_path(saved)
        found.add(methods.load(saved).name)
        if not killed:
            break
    assert found == {"svd", "median"}
    assert bool(missing) != exchange
    old.save(saved, overwrite=True)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
