"""The contract that every method follows: a class derived from `Imputer`.

An `Imputer` takes `imputome.core.data.Data` and returns an `imputome.core.imputation.Imputation`. Letters used
throughout: ``n`` cells (rows), ``G`` genes (columns), ``X`` the n x G input. This module imports no torch,
scikit-learn, numba or pydantic, so that listing methods stays fast.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from imputome.core.by_blocks import ByBlocks, latent_by_blocks
from imputome.core.data import Data, Kind, as_data
from imputome.core.imputation import Imputation, LinkedModel, Model, Output, Status
from imputome.core.info import MethodInfo
from imputome.core.learned import Learned, array_fault, damaged
from imputome.core.links import link
from imputome.core.parameters import check_names, check_parameters, parameter_defaults
from imputome.core.scales import Scale
from imputome.core.unknown_genes import OwnGenes, unseen_genes, unseen_message, without_genes
from imputome.errors import InputError, ModelFormatError, NotFittedError, some

if TYPE_CHECKING:
    from imputome.core.posterior import Prior

TRAINING_CELLS = 100_000  # that a fit learns from, chosen at random, if there are more


class Imputer(ABC):
    """Base class of every method: ``fit``, ``fit_transform``, ``transform``, ``save`` and ``load``.

    It follows scikit-learn: the constructor stores its parameters untouched, ``fit`` checks them and learns,
    ``get_params``, ``set_params`` and ``sklearn.base.clone`` work. The result is a lazy `Imputation`, not an array;
    `imputome.sklearn.Imputer` is the transformer that returns arrays.

    A subclass defines ``info`` (its `MethodInfo`), ``__init__`` with keyword-only parameters that have types and
    defaults, `_fit`, and, for `transform` and `save`, `_new_rows`, `_state` and `_restore`. A method for counts can
    have the parameter ``posterior : bool``, which combines the fitted rate with the cell's own counts (see
    `imputome.core.posterior`).

    Attributes
    ----------
    info : MethodInfo
        What the method is.
    name : str
        The name in ``info``.
    posterior : bool
        Whether the posterior step is on.
    link : str, default="identity"
        Transform on which real values are imputed, see `imputome.core.links`. It can be set from outside before `fit`.
    training_cells : int or None, default=100000
        Largest number of cells that a fit on counts learns from; with more, it learns from so many of them, chosen at
        random, and all are imputed. None: all. It can be set from outside before `fit`; methods that cannot impute new
        rows by themselves learn from all.
    progress : callable or None
        If set, it is called during a fit with the share of work done (0 to 1) and a short text; it can raise to end
        the fit.
    provenance : dict or None
        Plain values to keep in a saved model.
    replaced_by : str
        What gave the values instead of the fitted method, in words; empty if the method itself gave them.
    libraries : tuple of str
        Packages whose versions the record of a result holds beside those of NumPy and SciPy.
    learned, stored : dict of str to Learned
        What a saved model holds: name of an array -> what it must be (`imputome.core.learned.Learned`). ``learned`` are
        the attributes of these names with an underscore, ``stored`` what the class makes in `_state` in another way.
    learns_from_sample : bool
        Whether a fit on very many cells learns from a random sample of them (`imputome.core.many_cells.random_rows`).
    search_space : dict
        What tuning varies: parameter -> tuple of choices, or ``(low, high, "linear" or "log")``; integers are drawn if
        ``low`` is an integer.
    feature_names_ : pandas.Index
        Names of the features of the training data.
    kind_ : {"counts", "real"}
        Kind of the training data.
    bounds_ : tuple of float
        Range that imputed real values cannot leave.
    covariate_names_ : list of str
        Covariates used in the fit.
    training_totals_ : ndarray of shape (G,) or None
        Molecules of each gene in the training data (counts only).

    Examples
    --------
    >>> import numpy as np
    >>> import imputome
    >>> X = np.array([[1.0, 2.0, np.nan], [2.0, 4.0, 6.0], [3.0, np.nan, 9.0]])
    >>> estimator = imputome.methods.create("knn", {"n_neighbors": 1})
    >>> estimator.set_params(n_neighbors=2)
    KNN(n_neighbors=2)
    >>> estimator.set_params(n_neighbors=1).fit_transform(X).to_array()
    array([[1., 2., 6.],
           [2., 4., 6.],
           [3., 4., 9.]])
    >>> estimator.transform(np.array([[2.0, np.nan, 6.0]])).to_array()
    array([[2., 4., 6.]])
    """

    info: ClassVar[MethodInfo]
    name: ClassVar[str]
    posterior: bool = False
    progress: Callable[[float, str], None] | None = None
    link: str = "identity"
    training_cells: int | None = TRAINING_CELLS
    provenance: dict[str, Any] | None = None
    replaced_by: str = ""
    learns_from_sample: ClassVar[bool] = False
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {}
    libraries: ClassVar[tuple[str, ...]] = ()  # packages beside NumPy and SciPy that its numbers depend on
    learned: ClassVar[Mapping[str, Learned]] = {}
    stored: ClassVar[Mapping[str, Learned]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "info" in cls.__dict__:
            cls.name = cls.info.name

    # -- parameters ------------------------------------------------------------------------------------------------
    @classmethod
    def parameter_defaults(cls) -> dict[str, Any]:
        """Constructor parameters and their defaults."""
        return parameter_defaults(cls)

    @property
    def outputs_without_step(self) -> frozenset[Output]:
        """Outputs that it has with its present parameters, those of the posterior step left out."""
        return self.info.outputs

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters and their values.

        Parameters
        ----------
        deep : bool, default=True
            For scikit-learn only: parameters are plain values.

        Returns
        -------
        dict
            Name -> value.
        """
        return {name: getattr(self, name) for name in self.parameter_defaults()}

    def changed_params(self) -> dict[str, Any]:
        """Parameters whose values differ from their defaults.

        Returns
        -------
        dict
            Name -> value.
        """
        defaults = self.parameter_defaults()
        # compared as text: the comparison of two arrays is an array
        return {name: value for name, value in self.get_params().items() if repr(value) != repr(defaults[name])}

    def set_params(self, **params: Any) -> Self:
        """Change parameters; `fit` checks their values.

        Parameters
        ----------
        **params
            Parameters by name.

        Returns
        -------
        Imputer
            This estimator.

        Raises
        ------
        InputError
            A name is not a parameter of the method; nothing changes then.
        """
        check_names(type(self), params)
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def clone(self, **changes: Any) -> Self:
        """An unfitted copy with the same ``link`` and ``training_cells``, and some parameters changed.

        Parameters
        ----------
        **changes
            Parameters by name.

        Returns
        -------
        Imputer
            The copy.

        Raises
        ------
        TypeError
            A name is not a parameter of the method.
        """
        copy = type(self)(**{**self.get_params(), **changes})
        copy.link, copy.training_cells = self.link, self.training_cells
        return copy

    def as_for(self, n: int, G: int) -> Imputer:
        """An unfitted copy that learns from any data as this one does from data of another size.

        Parameters
        ----------
        n, G : int
            Rows and columns of these data.

        Returns
        -------
        Imputer
        """
        return self.clone()

    def __sklearn_clone__(self) -> Self:
        return self.clone()

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        counts = "counts" in self.info.kinds
        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(allow_nan="real" in self.info.kinds, sparse=counts),
        )

    def __repr__(self) -> str:
        changed = ", ".join(f"{name}={value!r}" for name, value in self.changed_params().items())
        return f"{type(self).__name__}({changed})"

    # -- what a subclass writes ------------------------------------------------------------------------------------
    @abstractmethod
    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        """Learn from ``data``; return the model of its rows, and further arguments of `Imputation`."""

    def _new_rows(self, data: Data) -> Model:
        """The model of rows that were not in the training data; its attribute ``latent``, if any, represents them."""
        text = f"{self.name} cannot impute rows that it was not fitted on: use fit_transform on all rows together"
        raise InputError(text, code="no-new-rows")

    def _latent(self, data: Data) -> np.ndarray | None:
        """What represents rows that were not in the training data; faster than `_new_rows`, where that does more."""
        return getattr(self._new_rows(data), "latent", None)

    def _posterior_prior(self, data: Data) -> Prior:
        """The prior of the posterior step; called after `_fit`."""
        from imputome.core.prior import fit_prior

        return fit_prior(self.clone(posterior=False), data, random_state=getattr(self, "random_state", 0))

    def _check_values(self) -> None:
        """Refuse values of parameters that no data could make valid; their types were checked before."""
        return

    def _state(self) -> dict[str, np.ndarray]:
        """Learned arrays, for `save`: by default the attributes in ``learned`` that are not None."""
        values = {name: getattr(self, f"{name}_") for name in self.learned}
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Set the learned state from the arrays that `_state` returned, which are as declared in ``learned``."""
        for name in self.learned:
            array = arrays.get(name)
            setattr(self, f"{name}_", array.item() if array is not None and array.ndim == 0 else array)

    # -- what users call -------------------------------------------------------------------------------------------
    def check_params(self) -> None:
        """Check types and values of the parameters as far as that needs no data; a fit begins with it."""
        check_parameters(type(self), self.get_params())
        self._check_values()

    def _tell(self, share: float, text: str) -> None:
        """Report the progress of a fit; the callback can raise to end the fit."""
        if self.progress is not None:
            self.progress(share, text)

    def _require(self, name: str, valid: bool, condition: str) -> None:
        """Check the value of a parameter; its type was checked before."""
        if not valid:
            text = f"{self.name}: {name}={getattr(self, name)!r} must be {condition}"
            raise InputError(text, code="parameter-value", parameter=name)

    def fit(self, data: Any, *, kind: Kind | None = None) -> Self:
        """Learn from ``data``.

        Parameters
        ----------
        data, kind
            As in `fit_transform`, also for errors.

        Returns
        -------
        Imputer
            This estimator.
        """
        self.fit_transform(data, kind=kind)
        return self

    def fit_transform(self, data: Any, *, kind: Kind | None = None) -> Imputation:
        """Learn from ``data`` and impute its rows.

        Parameters
        ----------
        data : Data, array, sparse matrix or DataFrame of shape (n, G)
            Cells in rows, genes in columns. For counts a zero is missing, for real values NaN.
        kind : {"counts", "real"}, optional
            Kind of an array, see `imputome.core.data.as_data`; a method that takes one kind only needs none.

        Returns
        -------
        Imputation
            Lazy result: it makes dense values when asked.

        Raises
        ------
        InputError
            A parameter has a wrong type, the method does not take this kind of data, or fewer than 2 rows or 2 columns
            have observed values.
        """
        self.check_params()
        data = self._accept(data, kind)
        n, G = data.shape
        usable_rows, usable_columns = (int((c > 0).sum()) for c in data.observed_counts())
        if usable_rows < 2 or usable_columns < 2:
            text = (
                f"only {usable_rows} of {n} cells and {usable_columns} of {G} genes have known values: give 2 or more"
            )
            raise InputError(text, code="too-few-observed")
        training = self._training_part(data)
        model, result = self._fit(self._linked(training))
        self.feature_names_ = data.var_names
        self.kind_: Kind = data.kind
        self.bounds_ = data.bounds
        self.covariate_names_ = [] if data.covariates is None else [str(name) for name in data.covariates.columns]
        self.training_totals_ = training.gene_totals if data.kind == "counts" else None
        if self.posterior:
            self.prior_ = self._posterior_prior(training)
        fitted = self._imputation(model, training, training=True, **result)
        if training.shape[0] == n:
            return fitted
        status = self._unseen_status(data, fitted.status)
        text = f"learned from {training.shape[0]:,} of {n:,} cells, chosen at random"
        message = "; ".join(part for part in (text, status.message) if part)
        status = Status(status.name, message, {**status.details, "training_cells": training.shape[0]})
        return self.applied(data, status=status, history=result.get("history"), gene_columns=fitted.gene_columns)

    def imputes_by_rows(self, data: Data) -> bool:
        """Whether the values of each row, after a fit, are those that `transform` gives for it.

        Parameters
        ----------
        data : Data
            What is fitted.

        Returns
        -------
        bool
        """
        return self.info.new_rows == "exact" or self._learns_from_some(data)

    def _learns_from_some(self, data: Data) -> bool:
        """Whether a fit on ``data`` learns from some of the cells only."""
        most = self.training_cells
        reusable = self.info.new_rows in ("exact", "projection")
        return data.kind == "counts" and reusable and most is not None and data.shape[0] > most

    def _training_part(self, data: Data) -> Data:
        """The cells to learn from, in memory."""
        n, most = data.shape[0], self.training_cells
        if most is None or not self._learns_from_some(data):
            return data.to_memory()
        rng = np.random.default_rng([getattr(self, "random_state", 0), n])
        return data.subset(rows=np.sort(rng.choice(n, most, replace=False)))

    def applied(self, data: Data, **result: Any) -> Imputation:
        """The result of the fitted method for all rows of some data; block by block if these are not in memory.

        Parameters
        ----------
        data : Data
            Rows with the features of the training data.
        **result
            Further arguments of `Imputation`.

        Returns
        -------
        Imputation
        """
        if data.in_memory:
            known = without_genes(data, unseen_genes(data, self.training_totals_))
            model = self._new_rows(self._linked(known))
            return self._imputation(model, known, inputs=data, latent=getattr(model, "latent", None), **result)
        blocks = ByBlocks(self._model_of, data)
        latent = latent_by_blocks(self.latent_of, data)
        return Imputation(blocks, replace(data, covariates=None), **self.how(data), latent=latent, **result)

    def latent_of(self, data: Data) -> np.ndarray | None:
        """What represents some new rows.

        Parameters
        ----------
        data : Data
            Rows with the features of the training data.

        Returns
        -------
        ndarray of shape (n, k) or None
            None if the method has no representation of rows.
        """
        known = without_genes(data, unseen_genes(data, self.training_totals_))
        return self._latent(self._linked(known)) if self.info.latent else None

    def _model_of(self, data: Data) -> Model:
        """The model of some new rows, with all steps."""
        known = without_genes(data, unseen_genes(data, self.training_totals_))
        return self._complete(self._new_rows(self._linked(known)), known, inputs=data)

    def transform(self, data: Any) -> Imputation:
        """Impute new rows with the fitted method.

        Parameters
        ----------
        data : Data, array, sparse matrix or DataFrame of shape (m, G)
            New rows; the columns must be those of the training data, in the same order.

        Returns
        -------
        Imputation

        Raises
        ------
        NotFittedError
            The estimator is not fitted.
        ModelFormatError
            The number of features, their names or the kind of data differ from the training data.
        InputError
            The method cannot impute new rows.

        Warns
        -----
        UserWarning
            Genes that had no molecule in training have some here. The model does not know them: they stay as they are,
            their molecules are left out of the library sizes that the model is given, and
            ``status.details["unknown_genes"]`` lists them.
        """
        if not hasattr(self, "feature_names_"):
            raise NotFittedError(f"{self.name} is not fitted yet: call fit first")
        data = replace(self._accept(data, self.kind_), bounds=self.bounds_)
        if data.shape[1] != len(self.feature_names_):
            text = f"the model was fitted on {len(self.feature_names_)} features, but this input has {data.shape[1]}"
            raise ModelFormatError(f"{text}: give the same features in the same order", code="model-feature-count")
        if not data.var_names.equals(self.feature_names_):
            wrong = np.flatnonzero(np.asarray(data.var_names) != np.asarray(self.feature_names_))
            here, there = (str(names[wrong[0]])[:40] for names in (data.var_names, self.feature_names_))
            text = (
                f"{len(wrong)} feature names differ from those of the model, the first at position {wrong[0]} "
                f"({here!r} here, {there!r} in the model)"
            )
            raise ModelFormatError(f"{text}: give the same features in the same order", code="model-feature-names")
        return self.applied(data, status=self._unseen_status(data, Status()))

    def _unseen_status(self, data: Data, status: Status) -> Status:
        """The status with the genes that had no molecule in training, and a warning if ``data`` has some."""
        unseen = unseen_genes(data, self.training_totals_)
        if not len(unseen):
            return status
        message = unseen_message(data, unseen)
        warnings.warn(message, stacklevel=3)
        text = "; ".join(part for part in (status.message, message) if part)
        return Status(status.name, text, {**status.details, "unknown_genes": data.var_names[unseen].tolist()})

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the fitted estimator to a directory: JSON and arrays, no pickle. `imputome.methods.load` reads it.

        Parameters
        ----------
        path : str or Path
            The directory.
        overwrite : bool, default=False
            Replace a saved model at ``path``.

        Raises
        ------
        NotFittedError
            The estimator is not fitted.
        InputError
            Something is at ``path``, the folder cannot be written to, or a parameter is not a plain value.
        """
        from imputome.core.saved import write_model

        if not hasattr(self, "feature_names_"):
            raise NotFittedError(f"{self.name} is not fitted yet: call fit before save")
        arrays = dict(self._state())
        if self.posterior:
            prior = self.prior_
            arrays |= {"posterior_shape": prior.shape, "posterior_power": prior.power, "posterior_mean": prior.mean}
            arrays |= {"posterior_cell_power": np.array(prior.cell_power), "posterior_excess": np.array(prior.excess)}
            arrays["posterior_factor"] = np.array(self.total_factor_)
        if self.training_totals_ is not None:
            arrays["training_totals"] = self.training_totals_
        fault = array_fault(self._declared(), arrays, n_features=len(self.feature_names_))
        if fault is not None:
            text = f"the fitted {self.name} cannot be saved ({fault[1]}): fit it again with other parameters"
            raise InputError(text, code=fault[0])
        header = {
            "method": self.name,
            "params": self.get_params(),
            "kind": self.kind_,
            "bounds": [bound if np.isfinite(bound) else None for bound in self.bounds_],
            "link": self.link,
            "feature_names": [str(name) for name in self.feature_names_],
            "covariates": self.covariate_names_,
            "provenance": self.provenance,
        }
        write_model(Path(path), header, arrays, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an estimator written by `save`; loading runs no code from the directory.

        `imputome.methods.load` does the same, and finds the class.

        Parameters
        ----------
        path : str or Path
            The directory.

        Returns
        -------
        Imputer
            A fitted estimator of this class.

        Raises
        ------
        ModelFormatError
            The directory holds no model, a damaged one, or one of another method.
        """
        import pandas as pd

        from imputome.core.posterior import saved_prior
        from imputome.core.saved import read_model

        header, arrays = read_model(path := Path(path))
        if header.method != cls.name:
            text = f"{path} holds a {header.method[:40]!r} model, not {cls.name!r}: use imputome.methods.load"
            raise ModelFormatError(text, code="model-of-other-method")
        try:
            params = cls._params_from_saved(header.params)
            if unknown := sorted(set(params) - set(cls.parameter_defaults())):
                text = f"this version of {cls.name} does not have the parameters {some(unknown)[:200]}: update imputome"
                raise ModelFormatError(text, code="model-unknown-parameter")
            estimator = cls(**params)
            estimator.feature_names_ = pd.Index(header.feature_names)
            estimator.kind_ = header.kind
            estimator.link = header.link
            estimator.covariate_names_ = header.covariates
            estimator.provenance = header.provenance
            low, high = header.bounds
            estimator.bounds_ = (-np.inf if low is None else low, np.inf if high is None else high)
            estimator._check_saved()
            fault = array_fault(estimator._declared(), arrays, n_features=len(header.feature_names))
            if fault is not None:
                raise damaged(fault[1], code=fault[0])
            estimator.training_totals_ = arrays.pop("training_totals", None)
            if estimator.posterior:
                estimator.prior_ = saved_prior(arrays)
                estimator.total_factor_ = float(arrays.pop("posterior_factor"))
            estimator._restore(arrays)
        except KeyError as error:
            raise damaged(f"{path}: the array {error} is missing", code="model-array-missing") from error
        except ModelFormatError as error:
            raise ModelFormatError(f"{path}: {error}", code=error.code, parameter=error.parameter) from error
        return estimator

    def _check_saved(self) -> None:
        """Check the parameters of a saved model as `fit` checks them, and that it can be one of this method."""
        try:
            self.check_params()
        except InputError as error:
            raise damaged(str(error)[:300], code=error.code) from error
        if self.kind_ not in self.info.kinds or (self.posterior and self.kind_ != "counts"):
            raise damaged(f"{self.name} cannot have been fitted on {self.kind_} values", code="damaged")

    def _declared(self) -> dict[str, Learned]:
        """What the arrays of a saved model must be."""
        common = {"training_totals": Learned("G", values="not negative", optional=True)}
        if self.posterior:
            common |= {
                "posterior_shape": Learned("G", values="positive"),
                "posterior_factor": Learned(values="positive"),
                # models of the first versions lack these: the shapes depend on the gene alone
                "posterior_power": Learned("G", optional=True),
                "posterior_mean": Learned("G", values="not negative", optional=True),
                "posterior_cell_power": Learned(values="not negative", optional=True),
                "posterior_excess": Learned(values="positive", optional=True),
            }
        return {**self.learned, **self.stored, **common}

    @classmethod
    def _params_from_saved(cls, params: dict[str, Any]) -> dict[str, Any]:
        """Constructor parameters, from those of a saved model; a subclass may drop what older versions stored."""
        return params

    def _accept(self, data: Any, kind: Kind | None = None) -> Data:
        """``data`` as `Data` of a kind that the method takes, and of the kind of the model if there is one."""
        kinds = self.info.kinds
        if not isinstance(data, Data):
            only: Kind | None = next(iter(kinds)) if len(kinds) == 1 else None
            try:
                data = as_data(data, kind=kind or only)
            except InputError as error:
                if error.code != "kind-unclear" or not self.posterior:
                    raise
                data = as_data(data, kind="counts")  # only they have a posterior step
        if data.kind not in kinds:
            text = f"{self.name} takes {' or '.join(sorted(kinds))} data, but these are {data.kind}: choose another"
            raise InputError(text, code="wrong-kind")
        if self.posterior and data.kind != "counts":
            text = "the posterior step needs counts, but these are real values: pass {posterior}"
            raise InputError(text, code="posterior-needs-counts", posterior=False)
        if kind is not None and data.kind != kind:
            text = f"the model was fitted on {kind} data, but this input is {data.kind}"
            raise ModelFormatError(text, code="model-kind")
        return data

    def _linked(self, data: Data) -> Data:
        """The values on the link, which the method works on."""
        if self.link == "identity":
            return data
        if data.kind == "counts":
            text = f"the transform {self.link!r} is for real values, but these are counts: leave it out"
            raise InputError(text, code="transform-needs-real", parameter="transform")
        return replace(data, X=link(self.link).forward(data.X), bounds=(-np.inf, np.inf))

    def _imputation(
        self, model: Model, data: Data, *, training: bool = False, inputs: Data | None = None, **result: Any
    ) -> Imputation:
        """The result of a method's model: with the posterior step and the link around it, where they are used.

        ``training`` is whether ``data`` are those that the method has just been fitted on. ``inputs`` are the rows with
        the molecules of the genes that were taken out of ``data`` because they had none in training.
        """
        if self.posterior and training:
            columns = {"posterior_shape": self.prior_.shape, "posterior_power": self.prior_.power}
            result["gene_columns"] = {**result.get("gene_columns", {}), **columns}
        model = self._complete(model, data, training=training, inputs=inputs)
        data = data if inputs is None else inputs
        return Imputation(model, replace(data, covariates=None), **self.how(data), **result)

    def _complete(self, model: Model, data: Data, *, training: bool = False, inputs: Data | None = None) -> Model:
        """A method's model of ``data`` with the posterior step, the link, and the genes that it does not know.

        With ``training``, the factor of the posterior step (see `PosteriorModel.matched_to_total`) is learned from
        ``data``; otherwise the learned one is used.
        """
        if self.posterior:
            from imputome.core.posterior import PosteriorModel

            if training:
                model = PosteriorModel(model, data, self.prior_).matched_to_total()
                self.total_factor_ = model.factor
            else:
                model = PosteriorModel(model, data, self.prior_, factor=self.total_factor_)
        if self.link != "identity":
            model = LinkedModel(model, link(self.link))
        if inputs is not None and inputs is not data:
            places = np.arange(data.shape[1])
            places[unseen_genes(inputs, self.training_totals_)] = -1
            model = OwnGenes(model, inputs, data, places)
        return model

    def how(self, data: Data) -> dict[str, Any]:
        """How values of the method are to be taken.

        Parameters
        ----------
        data : Data
            What is imputed.

        Returns
        -------
        dict
            Arguments of `Imputation`.
        """
        scale: Scale = "counts" if data.kind == "counts" else "input"
        keeps = (self.info.keeps_observed or data.kind == "real") and not self.posterior
        return {"scale": scale, "keeps_observed": keeps}
