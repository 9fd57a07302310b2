"""The protocol of the denoising task of Open Problems: its split and its controls.

The benchmark (github.com/openproblems-bio/task_denoising) keeps nine tenths of the molecules, denoises these, and
scores the result on the other tenth (molecular cross-validation, Batson, Royer & Webber 2019, doi:10.1101/786269). Its
scores are `open_problems_mse` and `open_problems_poisson` of `imputome.evaluation.metrics`. The second has truth and
prediction swapped, so `open_problems_poisson_corrected` stands beside it; docs/open_problems.md shows what the swap
does to the ranks.

Its workflow also takes the largest batch, and on request a sample of the cells: that is left to the user, who chooses
the cells.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from imputome.core.imputation import Imputation
from imputome.errors import InputError
from imputome.evaluation.metrics import METRICS, OPEN_PROBLEMS
from imputome.methods.controls.estimators import NoImputation

if TYPE_CHECKING:
    from imputome.evaluation.splits import Split

SCHEME, FRACTION = "thin", 0.1  # of the molecules, each by itself; the two parts share none
SCORES = tuple(name for name, metric in METRICS.items() if metric.protocol == OPEN_PROBLEMS)
PERFECT = "perfect_denoising"  # the benchmark's name for the control that is the test part itself


def benchmark_split(split: Split) -> Split:
    """A split of the scheme ``thin`` as the benchmark gives it to methods and metrics.

    Genes without a molecule in the training part are left out; cells without one stay. Rates at training depth are
    multiplied by the molecules that the test part has over those of the training part (about 1/9). Methods see the
    molecules of these genes only, so library sizes are over them.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.core.data import as_data
    >>> from imputome.evaluation.open_problems import FRACTION, SCHEME, benchmark_split
    >>> from imputome.evaluation.splits import make_split
    >>> data = as_data(np.random.default_rng(0).poisson(0.05, (50, 8)), kind="counts")
    >>> split = benchmark_split(make_split(SCHEME, data, rng=np.random.default_rng(1), fraction=FRACTION))
    >>> split.train.shape == split.test.shape, int(split.test.sum()), float(split.ratio * split.train.X.sum())
    (True, 4, 4.0)
    """
    assert split.test is not None  # noqa: S101
    seen = np.flatnonzero(split.train.gene_totals)
    train = replace(split.train.subset(columns=seen), library_size=None)
    test = split.test[:, seen]
    molecules = float(train.X.sum())
    if molecules == 0:
        raise InputError("the training part has no molecules: pass more cells", code="nothing-to-score")
    return replace(split, train=train, test=test, ratio=float(test.sum()) / molecules)


def perfect_denoising(split: Split) -> Imputation:
    """The control that the benchmark calls perfect: the held-out counts as the denoised training counts.

    Like every output it is multiplied by about 1/9 before the Poisson loss, so it is a ninth of what it should be
    there, and not the best that can be had. The mean squared error divides by each cell's own total, and is 0.
    """
    return NoImputation().fit_transform(replace(split.train, X=split.test))
