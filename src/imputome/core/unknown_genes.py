"""Genes that a fitted model does not know: their observed values stay as they are.

A model of counts does not know a gene that had no molecule in training: every rate that it could give is 0, and the
molecules of new cells would be erased, or counted into the rates of other genes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Model, Output
from imputome.core.scales import counts_to_scale
from imputome.errors import Message, some


def unseen_genes(data: Data, training_totals: np.ndarray | None) -> np.ndarray:
    """Positions of the genes that have molecules in ``data``, but had none in training.

    ``training_totals`` are the (G,) molecules in training; None if they are not known.
    """
    if training_totals is None or data.kind != "counts":
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero((np.asarray(training_totals) == 0) & (data.gene_totals > 0))


def unseen_message(data: Data, genes: np.ndarray) -> Message:
    """What the user should know of the genes that `unseen_genes` found."""
    molecules = data.gene_totals[genes].sum()
    text = (
        f"{len(genes):,} gene{'' if len(genes) == 1 else 's'} had no molecule in training, and {molecules:,.6g} here "
        f"({some(data.var_names[genes])}): they are unknown to the model and stay as they are"
    )
    return Message(text, code="genes-unseen")


def without_genes(data: Data, genes: np.ndarray) -> Data:
    """The same counts without those of some genes, which are not in the library sizes either."""
    if not len(genes):
        return data
    kept = np.ones(data.shape[1], dtype=bool)
    kept[genes] = False

    def part(matrix: Any) -> Any:
        if matrix is None:
            return None
        if isinstance(matrix, np.ndarray):
            return matrix & kept
        matrix = matrix.copy()
        matrix.data = matrix.data * kept[matrix.indices].astype(matrix.dtype)
        matrix.eliminate_zeros()
        return matrix

    X = part(data.X)
    library = data.library_size
    if library is not None:
        here = [np.asarray(matrix @ np.ones(data.shape[1])) for matrix in (data.X, X)]
        library = np.maximum(library - (here[0] - here[1]), here[1])
    return replace(data, X=X, observed=part(data.observed), library_size=library)


class OwnGenes:
    """A fitted model's values for the genes of the input (a `Model`); genes that it does not know keep their values."""

    def __init__(self, inner: Model, inputs: Data, data: Data, places: np.ndarray) -> None:
        self.inner, self.inputs, self.data, self.places = inner, inputs, data, places
        self.latent = getattr(inner, "latent", None)
        if hasattr(inner, "draw"):
            self.draw = self._draw

    @property
    def outputs(self) -> frozenset[Output]:
        return self.inner.outputs

    def _draw(self, rows: np.ndarray, number: int) -> np.ndarray:
        """A draw from the model for the genes that it knows; the other genes have one value only."""
        known_values = self.inner.draw(rows, number)  # type: ignore[attr-defined]
        values = np.empty((len(rows), len(self.places)), known_values.dtype)
        unknown = np.flatnonzero(self.places < 0)
        values[:, self.places >= 0] = known_values[:, self.places[self.places >= 0]]
        values[:, unknown] = self._unknown_values(self.inputs.block(rows, unknown), rows[:, None], unknown, "value")
        return values

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        genes = np.arange(len(self.places)) if genes is None else genes
        places = self.places[genes]
        known = places >= 0
        unknown_values = self._unknown_values(
            self.inputs.block(rows, genes[~known]), rows[:, None], genes[~known], output
        )
        if not known.any():
            return unknown_values
        known_values = self._scaled(self.inner.rows(rows, places[known], output), rows[:, None], output)
        if known.all():
            return known_values
        values = np.empty((len(rows), len(genes)), known_values.dtype)
        values[:, known] = known_values
        values[:, ~known] = unknown_values
        return values

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        places = self.places[j]
        known = places >= 0
        values = np.empty(len(i))
        values[known] = self._scaled(self.inner.at(i[known], places[known], output), i[known], output)
        values[~known] = self._unknown_values(self.inputs.entries(i[~known], j[~known]), i[~known], j[~known], output)
        return values

    def _unknown_values(self, values: np.ndarray, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        """Values of genes that the model does not know; their observed values have no uncertainty."""
        if self.inputs.kind == "real":
            filled = self._variances if output == "variance" else self._means
            return np.where(np.isnan(values), filled[j], 0 if output == "variance" else values)
        if output in ("variance", "dropout_probability"):
            return np.zeros_like(values)
        return counts_to_scale(values, self.inputs.depth[i], "normalized") if output == "normalized" else values

    def _scaled(self, values: np.ndarray, i: np.ndarray, output: Output) -> np.ndarray:
        """Rescale "normalized": the model's is per 10,000 molecules of its genes, the result's of all genes."""
        return values * self._share[i].astype(values.dtype) if output == "normalized" else values

    @cached_property
    def _share(self) -> np.ndarray:
        depth = self.inputs.depth
        return np.divide(self.data.depth, depth, out=np.zeros(len(depth)), where=depth > 0)

    @cached_property
    def _means(self) -> np.ndarray:
        """(G,) mean of each feature, or of all observed values where there is none."""
        X = self.inputs.X
        known = ~np.isnan(X)
        number = known.sum(axis=0)
        means = np.full(len(number), float(np.nanmean(X, dtype=np.float64)))
        return np.divide(np.nansum(X, axis=0, dtype=np.float64), number, out=means, where=number > 0)

    @cached_property
    def _variances(self) -> np.ndarray:
        """(G,) mean squared deviation of the observed values of each feature from `_means`."""
        gaps = self.inputs.X - self._means
        number = np.maximum((~np.isnan(gaps)).sum(axis=0), 1)
        return np.asarray(np.nansum(np.square(gaps), axis=0, dtype=np.float64) / number)
