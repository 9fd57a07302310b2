"""`imputome.impute`: from an AnnData to a new layer and the record of what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from imputome.api.plan import InMemory, Options, Plan, checked_options, plan_impute
from imputome.api.progress import is_live, stderr_line
from imputome.api.progress import progress as show_progress
from imputome.api.spelling import Spelling
from imputome.core.data import Kind
from imputome.core.scales import Scale
from imputome.core.threads import limited_threads
from imputome.errors import InputError
from imputome.methods import Method
from imputome.result.adapt import checked_anndata
from imputome.result.genes import with_others
from imputome.result.layout import default_key, store
from imputome.result.run import Progress, Run, fit_run
from imputome.trust.auto import budget_sentence, choose
from imputome.trust.check import check_run, cost

if TYPE_CHECKING:
    from anndata import AnnData

SPELLING = Spelling("params")
# (what begins, what it will cost, whether the amount of work is known)
Stage = Callable[[str, str, bool], AbstractContextManager[Progress | None]]


@SPELLING.of
def impute(
    adata: AnnData,
    *,
    method: Method | None = None,
    layer: str | None = None,
    key_added: str | None = None,
    genes: Any = None,
    feature_type: str | None = None,
    covariates: Iterable[str] | None = None,
    keep_observed: bool | None = None,
    scale: Scale | None = None,
    transform: str | None = None,
    outputs: str | Iterable[str] | None = (),
    params: dict[str, Any] | None = None,
    posterior: bool | None = None,
    check: bool | None = None,
    labels: str | Iterable[str] | None = (),
    budget: float | None = None,
    accept_control: bool = False,
    kind: Kind | None = None,
    round_counts: Literal["nearest", "stochastic"] | None = None,
    accept_orientation: bool = False,
    keep_summary_rows: bool = False,
    training_cells: int | None = None,
    threads: int | None = None,
    reproducible: bool = False,
    progress: bool | None = None,
    overwrite: bool = False,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Impute the missing values of an AnnData into a new layer; ``X`` is never changed.

    Parameters
    ----------
    adata : AnnData of n cells x G genes
        Counts (a zero may be a dropout), or real values with NaN for missing. Masked entries (``numpy.ma``), None and
        pandas.NA are missing too.
    method : str, class or estimator, optional
        A name from ``imputome.methods.names()`` (``"name+posterior"`` adds the posterior step), a class derived from
        `imputome.core.imputer.Imputer`, or an unfitted estimator. The default depends on the kind of data
        (``imputome.methods.DEFAULT``); it is the mean for real values that are too few to learn from. ``"auto"``
        compares methods and controls on held-out values of a sample and takes the best (`imputome.trust.auto.choose`).
    layer : str, optional
        Layer to impute; by default ``X``. ``"raw"`` means ``adata.raw`` unless a layer has that name: the genes of
        ``X`` are taken from it by name and imputed, and library sizes are over all its genes.
    key_added : str, optional
        Name of the new layer; by default the name of the method (``<method>_posterior`` with ``posterior=True``).
    genes : array-like, optional
        Names, positions, a slice or a boolean mask of the genes to write, in the order in which they are given; the
        method is fitted on all genes. A layer cannot hold some genes only, so they go to ``obsm[key]`` as a DataFrame;
        with ``copy=True`` the copy has these genes only and they go to its layer. A boolean Series is aligned by name.
    feature_type : str, optional
        Feature type to impute if ``var`` has several (in ``feature_types``, ``feature_type``, ``modality`` or
        ``type``, or in names such as ``CD3_TotalSeqB``), or ``"all"``; by default gene expression. Library sizes are
        over features of this type. The others keep their values in the result, and ``var["<key>_imputed"]`` marks those
        that were imputed.
    covariates : iterable of str, optional
        Columns of ``obs``, for methods that use covariates. Whole numbers that repeat are categories if there are at
        most 20 of them, also where they are stored as floats; more of them are refused as integers and a quantity as
        floats. ``"batch:category"`` and ``"age:number"`` say which it is.
    keep_observed : bool, optional
        Whether observed values stay as they are; None means the default of the method.
    scale : {"counts", "normalized", "log1p", "log2p1", "log10p1", "sqrt", "input"}, optional
        Scale of the values to write: ``"counts"`` (depth of the cell), ``"normalized"`` (per 10,000), ``"log1p"``,
        ``"log2p1"`` (log2(1 + x)), ``"log10p1"`` or ``"sqrt"`` of that, or ``"input"``. If the input itself is on a
        scale other than counts, naming that scale is the consent to impute on it, and the values come back on it.
        ``"log1p_counts"`` and so on are the same of counts that were not normalised.
    transform : {"asinh", "clip", "logit", "neglog", "none"}, optional
        Transform on which real values are imputed (see `imputome.core.links`); results are in the unit of the input. By
        default arcsinh for values with heavy tails, unless the method is a control; a warning says so.
    outputs : iterable of str, default=()
        Outputs to write beside the value, each to a layer ``<key>_<output>``: ``"variance"``, ``"lower"``,
        ``"upper"``, ... as far as the method has them (the posterior step has these three).
    params : dict, optional
        Parameters of the method, by name.
    posterior : bool, optional
        Whether to combine the method's rate with the cell's own counts; None means the default of the method.
    check : bool, optional
        Whether to check the imputation on held-out values of a sample of cells, beside controls, and to put the
        verdict into the record. It costs a few more fits. By default only with ``method="auto"``.
    labels : str or iterable of str, default=()
        Columns of ``obs`` with cell types or batches; the check measures whether imputing mixes them.
    budget : float, optional
        Minutes for ``method="auto"``; by default 5.
    accept_control : bool, default=False
        With ``method="auto"``: take the best control if no method is better than the controls.
    kind : {"counts", "real"}, optional
        Whether a zero may be missing (``"counts"``, also normalised or logged; NaN then count as zeros) or only NaN is
        missing (``"real"``). By default it is told from the values, and asked for where they leave it in doubt.
    round_counts : {"nearest", "stochastic"}, optional
        Round expected counts, as RSEM and salmon give them: to the nearest integer, or up with the probability of the
        decimals. The record says so.
    accept_orientation : bool, default=False
        Impute although names say that genes are in the rows.
    keep_summary_rows : bool, default=False
        Whether to fit what read counters count beside the genes (``__no_feature``, ``N_unmapped``, ``Unassigned_...``).
        By default they are left out of the fit and of the library size, with a warning, and keep the values of the
        input in the result, on whatever scale; ``var["<key>_imputed"]`` marks the others.
    training_cells : int, optional
        Of counts: the largest number of cells that the fit learns from, chosen at random; all cells are imputed. By
        default 100,000. A method that cannot impute cells that it was not fitted on learns from all.
    threads : int, optional
        Number of threads for numba, torch and linear algebra; by default each decides. It is recorded.
    reproducible : bool, default=False
        Whether the record leaves out times and memory, so that equal runs give equal files.
    progress : bool, optional
        Whether to show progress on stderr; by default if it is a terminal or a notebook.
    overwrite : bool, default=False
        Whether to replace an existing result of that name.
    random_state : int, default=0
        Seed.
    copy : bool, default=False
        Whether to return a changed copy instead of changing ``adata``.

    Returns
    -------
    AnnData or None
        The copy, or None. Results are in ``layers[key]`` (float64 for input in double precision, otherwise float32),
        ``obsm["X_<key>"]`` (latent representation, if the method has one), ``var["<key>_..."]``, ``obs["<key>_..."]``
        and ``uns["imputome"][key]``: the record with method, parameters, seed, versions, input, scale, seconds, memory,
        convergence, and the verdict if there was a check.

    Raises
    ------
    InputError
        The input cannot be imputed as it is; the message says what was seen and what to pass.
    ControlsWinError
        With ``method="auto"``, if no method is better than the controls.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()
    >>> imputome.impute(adata, method="gene_mean", posterior=True, key_added="shrunk")
    >>> adata.layers["shrunk"].shape == adata.shape
    True
    >>> adata.uns["imputome"]["shrunk"]["scale"]
    'counts'
    """
    options = Options(
        method=method,
        params={} if params is None else params,
        posterior=posterior,
        random_state=random_state,
        layer=layer,
        covariates=None if covariates is None else names_of(covariates, "covariates"),
        scale=scale,
        transform=transform,
        keep_observed=keep_observed,
        outputs=names_of(outputs, "outputs"),
        genes=genes,
        feature_type=feature_type,
        key_added=key_added,
        check=check,
        labels=names_of(labels, "labels"),
        budget=budget,
        accept_control=accept_control,
        kind=kind,
        round_counts=round_counts,
        accept_orientation=accept_orientation,
        keep_summary_rows=keep_summary_rows,
        training_cells=training_cells,
        threads=threads,
        reproducible=reproducible,
    )
    estimator = checked_options(options)
    plan = plan_impute(checked_anndata(adata), options, InMemory(overwrite=overwrite, copy=copy), estimator=estimator)
    SPELLING.warn(plan.messages)  # before the fit, which may take long
    said = set(plan.messages)
    plan, run = run_plan(plan, shown if (is_live() if progress is None else progress) else _silent)
    SPELLING.warn(message for message in run.messages if message not in said)
    return store(adata, run, plan.key, genes=plan.columns, keep_observed=keep_observed, copy=copy)


def names_of(names: str | Iterable[str] | None, parameter: str) -> tuple[str, ...]:
    """One name, several or none, as a tuple; ``parameter`` is what they were passed as."""
    if names is None:
        return ()
    if hasattr(names, "iloc") or not isinstance(names, Iterable):
        text = f"{parameter} takes names, and this is of type {type(names).__name__}"
        if parameter in ("labels", "covariates"):
            text += ": add the values to obs as a column, and pass its name"
        raise InputError(text, code="parameter-value", parameter=parameter)
    return (names,) if isinstance(names, str) else tuple(names)


@contextmanager
def _silent(what: str, cost: str, counted: bool) -> Iterator[None]:
    yield None


@contextmanager
def shown(what: str, cost: str, counted: bool) -> Iterator[Progress]:
    """A stage whose cost and progress are shown on stderr."""
    if cost:
        stderr_line(cost)
    with show_progress(what, counted=counted) as show:
        yield show


def run_plan(plan: Plan, stage: Stage = _silent) -> tuple[Plan, Run]:
    """`_run_plan` with the number of threads that the user asked for."""
    with limited_threads(plan.options.threads):
        return _run_plan(plan, stage)


def _run_plan(plan: Plan, stage: Stage) -> tuple[Plan, Run]:
    """Carry out `imputome.api.plan.plan_impute`: choose the method if asked to, fit, check. Nothing is written.

    ``stage`` is opened as a context for each stage, with its name, a sentence on its cost, and whether the amount of
    work is known; it yields the callable that receives the progress, or None. Returns the plan with the chosen method
    and key, and the lazy result.
    """
    options, estimator, further = plan.options, plan.estimator, {}
    if estimator is None:
        with stage("choosing a method", budget_sentence(plan.report.kind, plan.budget), False) as progress:
            chosen = choose(
                plan.data,
                labels=plan.labels,
                link=plan.link,
                budget=plan.budget,
                accept_control=options.accept_control,
                checked=options.checked,
                keep_observed=options.keep_observed,
                seed=options.random_state,
                progress=progress,
            )
        estimator, further = chosen.estimator, chosen.record
        messages = (*plan.messages, *chosen.messages)
        key = plan.key or default_key(estimator)
        plan = replace(plan, estimator=estimator, key=key, link=estimator.link, messages=messages)
    options.prepare(estimator, plan.link)
    with stage(f"fitting {estimator.name}", "", False) as progress:
        run = fit_run(
            estimator,
            plan.data,
            plan.report,
            scale=plan.scale,
            keep_observed=options.keep_observed,
            outputs=plan.outputs,
            messages=plan.messages,
            progress=progress,
        )
    about: dict[str, Any] = {"reproducible": options.reproducible, "options": options.further}
    if options.threads is not None:
        about["threads"] = options.threads
    run = replace(run, further={**further, **about})
    if options.checked and not options.automatic:
        with stage("checking", cost(plan.report, estimator), True) as progress:
            run = check_run(run, plan.data, labels=plan.labels, seed=options.random_state, progress=progress)
    return plan, replace(run, imputation=with_others(run.imputation, plan.adata, plan.report))
