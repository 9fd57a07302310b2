"""The augmented Lagrangian solvers against a naive dense implementation, the original software, and certificates."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from codes import has_code
from imputome.errors import InputError
from imputome.methods.ialm.solver import Solution, complete, robust_pca


def naive_completion(D, known, *, tol=1e-4, max_iter=1000, rank_step=200):
    """Algorithm 3 with dense float64 arrays and LAPACK's SVD, written from the paper; returns A, iterations, rank."""
    n, G = D.shape
    Y, A, E = np.zeros_like(D), np.zeros_like(D), np.zeros_like(D)
    mu = 0.3 / np.linalg.norm(D, 2)
    rho = 1.1 + 2.5 * known.sum() / (n * G)
    sv = 5
    for iteration in range(1, max_iter + 1):  # noqa: B007
        u, s, vt = np.linalg.svd(D - E + Y / mu, full_matrices=False)
        s = s[:sv]
        rank = int((s > 1 / mu).sum())
        A = (u[:, :rank] * (s[:rank] - 1 / mu)) @ vt[:rank]
        E = np.where(known, 0, D - A + Y / mu)
        R = D - A - E
        Y = Y + mu * R
        mu *= rho
        sv = rank + 1 if rank < sv else min(rank + rank_step, n, G)
        if np.linalg.norm(R * known) / np.linalg.norm(D) < tol:
            break
    return A, iteration, rank


def random_problem(n, G, *, seed, rank=4, density=0.3, noise=0.1):
    rng = np.random.default_rng(seed)
    full = rng.gamma(1.0, size=(n, rank)) @ rng.gamma(1.0, size=(rank, G)) + noise * rng.random((n, G))
    known = rng.random((n, G)) < density
    return full, known


def sparse_of(full, known):
    i, j = np.nonzero(known)
    return sp.csr_array((full[known], (i, j)), shape=full.shape)


@pytest.mark.parametrize(("n", "G"), [(30, 50), (50, 30), (40, 40), (70, 90)])
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_naive_dense(n, G, seed):
    full, known = random_problem(n, G, seed=seed)
    expected, iterations, rank = naive_completion(np.where(known, full, 0), known)
    solution = complete(sparse_of(full, known), dtype=np.float64)
    assert solution.status.name == "converged"
    assert solution.status.details["iterations"] == iterations
    assert solution.rank == rank
    np.testing.assert_allclose(solution.left @ solution.right.T, expected, atol=1e-6 * np.abs(expected).max())


def test_block_svd_agrees_with_naive_dense():
    # subspace iteration instead of the Gram matrix: not exact on a flat spectrum, so the matrix agrees less closely
    full, known = random_problem(70, 90, seed=0)
    expected, iterations, rank = naive_completion(np.where(known, full, 0), known)
    solution = complete(sparse_of(full, known), dtype=np.float64, svd="block")
    assert abs(solution.status.details["iterations"] - iterations) <= 1
    assert abs(solution.rank - rank) <= 1
    A = solution.left @ solution.right.T
    assert np.linalg.norm(A - expected) / np.linalg.norm(expected) < 0.005


@pytest.mark.parametrize("dense", [False, True])
def test_exact_recovers_noiseless_low_rank(dense):
    rng = np.random.default_rng(5)
    full = rng.standard_normal((120, 3)) @ rng.standard_normal((3, 100))
    known = rng.random(full.shape) < 0.6
    D = np.where(known, full, np.nan) if dense else sparse_of(full, known)
    solution = complete(D, tol=1e-6, dtype=np.float64, inner="exact")
    assert solution.status.name == "converged"
    assert solution.rank == 3
    assert np.linalg.norm(solution.left @ solution.right.T - full) / np.linalg.norm(full) < 1e-5


def test_inexact_recovers_noiseless_low_rank_roughly():
    # the published iteration raises mu before Y has settled: the naive version ends 4 % away from this matrix too
    rng = np.random.default_rng(5)
    full = rng.standard_normal((120, 3)) @ rng.standard_normal((3, 100))
    known = rng.random(full.shape) < 0.6
    solution = complete(sparse_of(full, known), tol=1e-6, dtype=np.float64)
    error = np.linalg.norm(solution.left @ solution.right.T - full) / np.linalg.norm(full)
    expected = naive_completion(np.where(known, full, 0), known, tol=1e-6)[0]
    naive_error = np.linalg.norm(expected - full) / np.linalg.norm(full)
    assert error == pytest.approx(naive_error, rel=1e-3)
    assert error < 0.05


def test_dense_and_sparse_paths_agree():
    full, known = random_problem(40, 60, seed=7, density=0.7)
    sparse = complete(sparse_of(full, known), dtype=np.float64)
    dense = complete(np.where(known, full, np.nan), dtype=np.float64)
    np.testing.assert_allclose(sparse.left @ sparse.right.T, dense.left @ dense.right.T, atol=1e-6 * full.max())


def test_known_zeros_are_matched():
    full, known = random_problem(40, 60, seed=8, density=0.5)
    full[known & (np.random.default_rng(0).random(full.shape) < 0.2)] = 0
    D = sparse_of(full, known)
    assert (D.data == 0).any()
    A = (lambda s: s.left @ s.right.T)(complete(D, dtype=np.float64))
    assert np.linalg.norm((A - full)[known]) <= 1e-4 * np.linalg.norm(full[known])


def test_constraint_and_history():
    full, known = random_problem(80, 60, seed=2)
    solution = complete(sparse_of(full, known))
    residual = np.linalg.norm((solution.left @ solution.right.T - full)[known]) / np.linalg.norm(full[known])
    assert residual < 1.01e-4
    history = solution.history
    assert history["iteration"] == list(range(1, solution.status.details["iterations"] + 1))
    assert history["residual"][-1] == pytest.approx(residual, rel=1e-2)
    np.testing.assert_allclose(solution.right.T @ solution.right, np.eye(solution.rank), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(solution.left, axis=0), solution.singular_values, rtol=1e-4)


def test_rank_limited_stops_with_finite_values():
    full, known = random_problem(100, 120, seed=4, rank=20, noise=1.0)
    solution = complete(sparse_of(full, known), max_rank=3)
    assert solution.status.name == "rank_limited"
    assert not solution.status.converged
    assert solution.rank == 3
    assert np.isfinite(solution.left).all()
    assert np.isfinite(solution.right).all()


def test_status_tells_that_max_iter_was_reached():
    full, known = random_problem(60, 80, seed=4)
    solution = complete(sparse_of(full, known), max_iter=4)
    assert solution.status.name == "max_iter"
    assert solution.status.details["iterations"] == 4


def test_callback_stops():
    full, known = random_problem(60, 80, seed=4)
    seen: list[Solution] = []
    complete(sparse_of(full, known), callback=lambda solution: seen.append(solution) or len(seen) == 3)
    assert len(seen) == 3


def test_adaptive_rank_reaches_the_same_matrix():
    full, known = random_problem(300, 320, seed=6, rank=10, density=0.2)
    fixed = complete(sparse_of(full, known), dtype=np.float64)
    adaptive = complete(sparse_of(full, known), dtype=np.float64, rank_step="adaptive")
    assert adaptive.status.name == "converged"
    a, b = (s.left @ s.right.T for s in (fixed, adaptive))
    assert np.linalg.norm(a - b) / np.linalg.norm(a) < 0.05
    # it computes fewer triplets that are thrown away
    assert sum(adaptive.history["sv"]) < sum(fixed.history["sv"])


def test_exact_inner_has_the_lower_nuclear_norm():
    # the exact variant solves problem (7); the inexact one takes few steps with a fast-growing mu and ends above it
    full, known = random_problem(50, 60, seed=9, density=0.4)
    D = sparse_of(full, known)
    exact, inexact = (complete(D, dtype=np.float64, inner=inner) for inner in ("exact", "inexact"))
    assert exact.status.name == "converged"
    assert exact.singular_values.sum() <= inexact.singular_values.sum() * (1 + 1e-3)


def test_known_zeros_alone_give_zero():
    D = sp.csr_array((np.zeros(3), ([0, 1, 2], [0, 1, 2])), shape=(4, 5))
    solution = complete(D)
    assert solution.status.converged
    assert (solution.left @ solution.right.T == np.zeros((4, 5))).all()


def test_memory_is_bounded_and_never_dense():
    rng = np.random.default_rng(0)
    n, G, rank = 4000, 6000, 10
    pattern = sp.random_array((n, G), density=0.01, format="csr", rng=rng, dtype=np.float32)
    rows = np.repeat(np.arange(n), np.diff(pattern.indptr))
    u, v = rng.gamma(1.0, size=(n, rank)), rng.gamma(1.0, size=(G, rank))
    pattern.data[:] = np.einsum("kr,kr->k", u[rows], v[pattern.indices])
    complete(pattern, max_rank=40, max_iter=2)  # compiles
    tracemalloc.start()
    solution = complete(pattern, max_rank=40, max_iter=25)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * (pattern.nnz + (n + G) * solution.rank) * 8
    assert peak < n * G * 4 / 2


@pytest.mark.parametrize("inner", ["inexact", "exact"])
def test_robust_pca_separates_low_rank_and_sparse(inner):
    rng = np.random.default_rng(1)
    low = rng.standard_normal((80, 4)) @ rng.standard_normal((4, 70))
    outliers = np.where(rng.random(low.shape) < 0.05, 10 * rng.standard_normal(low.shape), 0)
    A, E, solution = robust_pca(low + outliers, inner=inner)
    assert solution.status.name == "converged"
    assert (solution.singular_values > 1e-4 * solution.singular_values[0]).sum() == 4
    assert np.linalg.norm(A - low) / np.linalg.norm(low) < 1e-5
    assert np.linalg.norm(E - outliers) / np.linalg.norm(outliers) < 1e-5
    np.testing.assert_allclose(A + E, low + outliers, atol=1e-4)


def test_robust_pca_refuses_bad_input(monkeypatch):
    with pytest.raises(InputError, check=has_code("not-finite")):
        robust_pca(np.array([[1.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(InputError, check=has_code("all-zero")):
        robust_pca(np.zeros((3, 3)))
    monkeypatch.setattr("imputome.methods.ialm.solver.MAX_DENSE_BYTES", 10)
    with pytest.raises(InputError, check=has_code("too-large")):
        robust_pca(np.ones((3, 3)))


def test_golden_pbmc4k(golden):
    """The authors' MATLAB code in Octave (see golden/README.md): iterations, rank, scores and predictions."""
    folder = golden / "ialm_pbmc4k"
    reference = json.loads((folder / "reference.json").read_text())
    held_out = np.load(folder / "held_out.npz")
    D = sp.csr_array(sp.load_npz(folder / "masked.npz"))
    tracemalloc.start()
    solution = complete(D)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert solution.status.name == "converged"
    assert abs(solution.status.details["iterations"] - reference["iterations"]) <= 1
    assert abs(solution.rank - reference["rank"]) <= 6
    raw = np.einsum("kr,kr->k", solution.left[held_out["rows"]], solution.right[held_out["cols"]]).astype(float)
    expected = held_out["reference_prediction"]
    assert np.linalg.norm(raw - expected) / np.linalg.norm(expected) < 0.01
    prediction, truth = np.maximum(raw, 0), held_out["truth"]
    assert np.mean((prediction - truth) ** 2) == pytest.approx(reference["mse"], rel=0.005)
    assert np.corrcoef(prediction, truth)[0, 1] == pytest.approx(reference["pcc"], abs=0.001)
    singular = np.load(folder / "reference_singular_values.npy")
    np.testing.assert_allclose(solution.singular_values[:100], singular, rtol=0.01)
    assert peak < 4 * (D.nnz + sum(D.shape) * solution.rank) * 8
