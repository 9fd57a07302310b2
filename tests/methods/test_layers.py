"""Sparse layers against dense ones: values, and gradients by autograd on the dense formula."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from imputome.methods.deep.batches import CountBatches  # noqa: E402
from imputome.methods.deep.sparse_layers import SparseLinear, multinomial_loss, sparse_matmul  # noqa: E402

B, G, H = 9, 31, 4


def block(*, dtype=torch.float64, seed=0, empty=False):
    """Counts in (B, G), some large; row 2 and gene 5 are empty."""
    rng = np.random.default_rng(seed)
    X = rng.poisson(rng.gamma(0.3, 10, size=(B, G))).astype(np.float32)
    X[0, 1] = 30_000
    X[2], X[:, 5] = 0, 0
    if empty:
        X[:] = 0
    X = sp.csr_array(X)
    (batch,) = CountBatches(X, library=np.ones(B)).epoch()
    return batch.counts.with_values(batch.counts.values.to(dtype)), torch.from_numpy(X.toarray()).to(dtype)


# -- the first layer ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sparse_linear_is_the_dense_layer(dtype, bias, empty):
    torch.manual_seed(0)
    sparse, dense = SparseLinear(G, H, bias=bias).to(dtype), nn.Linear(G, H, bias=bias).to(dtype)
    with torch.no_grad():
        dense.weight.copy_(sparse.weight.t())
        if bias:
            dense.bias.copy_(sparse.bias)
    counts, X = block(dtype=dtype, empty=empty)
    counts = counts.with_values(counts.values.log1p())
    ours, theirs = sparse(counts), dense(X.log1p())
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(ours, theirs, **tolerance)
    upstream = torch.randn(B, H, dtype=dtype)
    (ours * upstream).sum().backward()
    (theirs * upstream).sum().backward()
    torch.testing.assert_close(sparse.weight.grad, dense.weight.grad.t(), **tolerance)
    if bias:
        torch.testing.assert_close(sparse.bias.grad, dense.bias.grad, **tolerance)
    else:
        assert sparse.bias is None


def test_gradient_by_finite_differences():
    counts, _ = block()
    weight = torch.randn(G, H, dtype=torch.float64, requires_grad=True)
    scaled = counts.with_values(counts.values.log1p())
    assert torch.autograd.gradcheck(lambda w: sparse_matmul(scaled, w), (weight,))


def test_upstream_gradient_need_not_be_contiguous():
    counts, X = block()
    weight = torch.randn(G, H, dtype=torch.float64, requires_grad=True)
    sparse_matmul(counts, weight).t().sum(1)[1].backward()
    expected = torch.zeros(G, H, dtype=torch.float64)
    expected[:, 1] = X.sum(0)
    torch.testing.assert_close(weight.grad, expected)


def test_what_other_devices_compute_is_the_same():
    """On an accelerator the product is an embedding bag."""
    counts, X = block()
    weight = torch.randn(G, H, dtype=torch.float64)
    bag = nn.functional.embedding_bag(
        counts.columns, weight, counts.offsets[:-1], mode="sum", per_sample_weights=counts.values
    )
    torch.testing.assert_close(sparse_matmul(counts, weight), bag)
    torch.testing.assert_close(bag, X @ weight)


def test_starts_as_a_dense_layer_does():
    torch.manual_seed(0)
    layer = SparseLinear(10_000, 50)
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= 0.01
    assert layer.weight.std().item() == pytest.approx(0.01 / 3**0.5, rel=0.01)


class Sizes(TorchDispatchMode):
    """Notes the number of elements of every dense tensor that is made."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.made += [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.layout == torch.strided]
        return out


def test_the_input_is_never_made_dense():
    genes = 20_000
    X = sp.random_array((B, genes), density=0.001, rng=np.random.default_rng(0), format="csr", dtype=np.float32)
    (batch,) = CountBatches(X, library=np.ones(B)).epoch()
    layer = SparseLinear(genes, H)
    with Sizes() as sizes:
        layer(batch.counts).sum().backward()
    assert max(sizes.made) == genes * H < B * genes  # the gradient of the weights
    with Sizes() as sizes:
        batch.counts.dense()
    assert max(sizes.made) == B * genes  # it would have been seen


# -- the loss ----------------------------------------------------------------------------------------------------------
def head(dtype, *, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    shapes = ((B, H), (H, G), (G,))
    return [
        (torch.randn(s, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_() for s in shapes
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_multinomial_loss_is_that_of_a_log_softmax(dtype):
    target, X = block(dtype=dtype)
    ours, exact = head(dtype), [p.detach().double().requires_grad_() for p in head(dtype)]
    loss = multinomial_loss(*ours, target)
    expected = -(X.double() * torch.log_softmax(exact[0] @ exact[1] + exact[2], 1)).sum()
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    assert loss.item() == pytest.approx(expected.item(), rel=rtol)
    (3 * loss).backward()
    (3 * expected).backward()
    for mine, theirs in zip(ours, exact, strict=True):
        scale = theirs.grad.abs().max().item()
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=rtol, atol=rtol * scale)
        assert mine.grad.dtype == dtype


def test_multinomial_loss_is_that_of_torch_distributions():
    target, X = block()
    hidden, weight, bias = head(torch.float64)
    logits = (hidden @ weight + bias).detach()
    loss = 0.0
    for x, row in zip(X, logits, strict=True):
        if x.sum():
            multinomial = torch.distributions.Multinomial(int(x.sum()), logits=row)
            ways = torch.lgamma(x.sum() + 1) - torch.lgamma(x + 1).sum()
            loss -= float(multinomial.log_prob(x) - ways)
    assert multinomial_loss(hidden, weight, bias, target).item() == pytest.approx(loss, rel=1e-10)


def test_poisson_loss_at_the_observed_library_size_differs_by_a_constant():
    target, X = block()
    total = X.sum(1, keepdim=True)
    differences = []
    for scale in (0.1, 1.0, 2.0):
        hidden, weight, bias = head(torch.float64, scale=scale)
        rate = total * torch.softmax(hidden @ weight + bias, 1)
        filled = total[:, 0] > 0
        poisson = torch.nn.functional.poisson_nll_loss(rate[filled], X[filled], log_input=False, eps=0, reduction="sum")
        differences.append((poisson - multinomial_loss(hidden, weight, bias, target)).item())
    assert np.ptp(differences) < 1e-7 * abs(differences[0])


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_extreme_logits_stay_finite_and_the_gradient_exact(size):
    target, X = block(dtype=torch.float32)
    hidden = torch.zeros(B, 1, requires_grad=True)
    weight = torch.zeros(1, G, requires_grad=True)
    bias = torch.linspace(-size, size, G).requires_grad_()
    loss = multinomial_loss(hidden, weight, bias, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert 0 < loss.item() <= 87.4 * X.sum().item()
    share = torch.softmax(bias.detach().double(), 0)
    expected = X.double().sum() * share - X.double().sum(0)
    torch.testing.assert_close(bias.grad.double(), expected, rtol=1e-5, atol=1e-6 * X.sum().item())


def test_a_loss_without_gradients_keeps_nothing():
    target, _ = block(dtype=torch.float32)
    inputs = [p.detach() for p in head(torch.float32)]
    loss = multinomial_loss(*inputs, target)
    assert loss.grad_fn is None
    assert loss.item() == pytest.approx(multinomial_loss(*head(torch.float32), target).item(), rel=1e-6)


def test_cells_without_molecules_add_nothing():
    target, _ = block(empty=True)
    parameters = head(torch.float64)
    loss = multinomial_loss(*parameters, target)
    loss.backward()
    assert loss.item() == 0
    assert not any(p.grad.any() for p in parameters)
