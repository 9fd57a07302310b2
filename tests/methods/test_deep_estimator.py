"""What deep estimators share, on a small one made here."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import scipy.sparse as sp

torch = pytest.importorskip("torch")

from codes import has_code  # noqa: E402
from imputome import methods  # noqa: E402
from imputome.core.data import Data, as_data  # noqa: E402
from imputome.core.info import MethodInfo  # noqa: E402
from imputome.errors import InputError, ModelFormatError  # noqa: E402
from imputome.methods.deep.batches import CountBatches  # noqa: E402
from imputome.methods.deep.estimator import DeepImputer, split_cells  # noqa: E402
from imputome.methods.deep.training import Schedule  # noqa: E402
from imputome.methods.factors import LowRank  # noqa: E402


class SharesNet(torch.nn.Module):
    """Every cell has the same softmax of shares."""

    def __init__(self, G: int, width: int) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.randn(width, G))
        self.register_buffer("seen", torch.tensor(0))

    def validation_loss(self, batch):
        return -(batch.counts.dense() * torch.log_softmax(self.logits.sum(0), 0)).sum()

    def loss_terms(self, batch):
        self.seen += len(batch)
        return {"nll": self.validation_loss(batch) / len(batch)}


class Shares(DeepImputer):
    info = MethodInfo("shares", "for these tests", frozenset({"counts"}))
    batch_size = 8

    def __init__(self, *, width: int = 2, device: str = "cpu", random_state: int = 0) -> None:
        self.width, self.device, self.random_state = width, device, random_state

    def _fit(self, data: Data):
        self.genes_ = data.shape[1]
        batches = CountBatches(data.X, library=data.depth, batch_size=self.batch_size, device=self._device())
        train, validation = split_cells(data.shape[0], 0.2, self.random_state)
        training = self._train(
            self._new_network(), batches, data, Schedule(max_epochs=5), train_rows=train, validation_rows=validation
        )
        return self._new_rows(data), {"status": training.status, "history": training.history}

    def _new_rows(self, data: Data):
        share = torch.softmax(self.network_.logits.detach().sum(0), 0).numpy()
        return LowRank(data.depth[:, None].astype(np.float32), share[:, None])

    def _network(self):
        return SharesNet(self.genes_, self.width)

    def _state(self):
        return {**super()._state(), "genes": np.array(self.genes_)}

    def _restore(self, arrays):
        self.genes_ = int(arrays["genes"])
        super()._restore(arrays)


def counts(seed: int = 0) -> sp.csr_array:
    return sp.csr_array(np.random.default_rng(seed).poisson(1.0, (30, 12)).astype(np.float32))


def test_saved_and_loaded_it_is_the_same(tmp_path):
    fitted = Shares().fit(counts())
    fitted.save(tmp_path / "m")
    loaded = Shares.load(tmp_path / "m")
    assert not loaded.network_.training
    for name, value in fitted.network_.state_dict().items():
        assert torch.equal(loaded.network_.state_dict()[name], value)
        assert loaded.network_.state_dict()[name].dtype == value.dtype
    assert loaded.network_.seen > 0
    new = counts(1)
    np.testing.assert_array_equal(loaded.transform(new).to_array(), fitted.transform(new).to_array())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda arrays: arrays.pop("network.logits"), None),
        (lambda arrays: arrays.update({"network.logits": np.zeros((3, 12))}), "model-array-shape"),
    ],
)
def test_arrays_that_do_not_fit(change, code, tmp_path):
    Shares().fit(counts()).save(tmp_path / "m")
    with np.load(tmp_path / "m" / "arrays.npz") as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez(tmp_path / "m" / "arrays.npz", **arrays)
    with pytest.raises(ModelFormatError) as error:
        Shares.load(tmp_path / "m")
    assert "network.logits" in str(error.value)
    assert code is None or error.value.code == code


def test_it_depends_on_its_seed_and_on_nothing_else():
    torch.manual_seed(1)
    first = Shares().fit(counts())
    torch.manual_seed(2)
    second, other = Shares().fit(counts()), Shares(random_state=1).fit(counts())
    assert torch.equal(first.network_.logits, second.network_.logits)
    assert not torch.equal(first.network_.logits, other.network_.logits)


def fit(folder, data, **params):
    estimator, epochs = Shares(**params), []
    estimator.checkpoint = folder
    estimator.on_epoch = lambda number, loss: epochs.append(number)
    estimator.fit(data)
    return estimator, epochs


def test_a_second_fit_takes_the_checkpoint(tmp_path):
    first, epochs = fit(tmp_path, counts())
    second, none = fit(tmp_path, counts())
    assert (epochs, none) == ([1, 2, 3, 4, 5], [])
    assert torch.equal(first.network_.logits, second.network_.logits)
    assert Shares().clone().checkpoint is None


def changed(data: Data, **changes) -> Data:
    return Data(**{**vars(data), **changes})


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("data", lambda data: counts(1)),
        ("data", lambda data: changed(data, var_names=data.var_names + "x")),
        ("data", lambda data: changed(data, library_size=data.depth + 1)),
    ],
)
def test_other_data_are_refused(part, other, tmp_path):
    data = as_data(counts(), kind="counts")
    fit(tmp_path, data)
    with pytest.raises(InputError, check=has_code("checkpoint-mismatch")) as error:
        fit(tmp_path, other(data))
    assert f"different: {part})" in str(error.value)


def test_other_parameters_are_refused(tmp_path):
    fit(tmp_path, counts())
    with pytest.raises(InputError, check=has_code("checkpoint-mismatch")) as error:
        fit(tmp_path, counts(), width=3)
    assert "different: network, parameters)" in str(error.value)
    with pytest.raises(InputError, check=has_code("checkpoint-mismatch")) as error:
        fit(tmp_path, counts(), random_state=1)
    assert "different: network, seed, cells, parameters)" in str(error.value)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 11, 1000])
def test_split(n):
    train, validation = split_cells(n, 0.2, 0)
    for part in (train, validation):
        assert (np.diff(part) > 0).all()
    assert len(train) >= 2
    if n == 2:
        np.testing.assert_array_equal(train, validation)
    else:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(n))
        assert len(validation) == max(1, round(0.2 * n))


def test_split_by_seed():
    first, again, other = (split_cells(100, 0.2, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)
    with pytest.raises(InputError, check=has_code("parameter-value")):
        split_cells(10, 1.0, 0)


def small_device(monkeypatch, cells):
    """A device without memory for batches of more than so many cells."""
    whole = SharesNet.loss_terms

    def loss_terms(network, batch):
        if len(batch) > cells:
            raise torch.OutOfMemoryError("out of memory")
        return whole(network, batch)

    monkeypatch.setattr(SharesNet, "loss_terms", loss_terms)


def test_batches_are_halved_where_the_device_has_no_memory(monkeypatch):
    wanted = Shares().fit_transform(counts()).to_array()
    monkeypatch.setattr(Shares, "batch_size", 32)
    small_device(monkeypatch, 15)
    method = Shares()
    with pytest.warns(UserWarning, match="batches of 8"):
        found = method.fit_transform(counts()).to_array()
    np.testing.assert_array_equal(found, wanted)


def test_a_device_without_memory_for_any_batch(monkeypatch):
    small_device(monkeypatch, 1)
    method = Shares()
    with pytest.raises(InputError, check=has_code("device-memory")):
        method.fit_transform(counts())


def test_device(monkeypatch):
    with pytest.raises(InputError, check=has_code("parameter-value")):
        Shares(device="tpu").fit(counts())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Shares(device="auto")._device() == torch.device("cpu")
    with pytest.raises(InputError, check=has_code("no-cuda-device")):
        Shares(device="cuda").fit(counts())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Shares(device="auto")._device() == torch.device("cuda")
    assert Shares(device="cpu")._device() == torch.device("cpu")


@pytest.mark.parametrize("name", [name for name in methods.names() if methods.info(name).extra == "deep"])
def test_every_parameter_is_described(name):
    method = methods.get(name)
    parameters = inspect.getdoc(method).split("\nParameters\n")[1].split("\nAttributes\n")[0]
    assert [parameter for parameter in method.parameter_defaults() if parameter not in parameters] == []
