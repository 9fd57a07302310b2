"""The contract every method follows: what it is (`MethodInfo`), what it does (`Imputer`).

It is given `Data` and returns an `Imputation`, both to be imported from here too. Letters used throughout: ``n`` cells
(rows), ``G`` genes (columns), ``X`` the n x G input. This module imports no torch, scikit-learn or numba, so that
listing methods stays fast.
"""

from __future__ import annotations

import inspect
import math
import types
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

import numpy as np

from imputome.core.data import Data, Kind, as_data
from imputome.core.imputation import Imputation, LinkedModel, Model
from imputome.core.info import MethodInfo
from imputome.core.links import link
from imputome.core.scales import Scale, is_integer
from imputome.errors import InputError, ModelFormatError, NotFittedError


class Imputer(ABC):
    """Base of every method: stores its parameters untouched, learns in `fit`, returns `Imputation`.

    A subclass defines ``info`` (what it is), ``__init__`` with keyword-only parameters, `_fit`, and, for
    `transform` and `save`, `_new_rows`, `_state` and `_restore`. A method for counts has the switch ``posterior``:
    combine the fitted rate with the cell's own counts (see `imputome.core.posterior`).
    """

    info: ClassVar[MethodInfo]
    name: ClassVar[str]  # that of ``info``
    posterior: bool = False
    progress: Callable[[float, str], None] | None = None  # told the share done and where it stands, if set
    link: str = "identity"  # what real values are imputed on (`imputome.core.links`), set from outside too
    provenance: dict[str, Any] | None = None  # plain values that whoever fitted it wants kept in the saved model
    # what tuning may vary: parameter -> tuple of choices, or (low, high, "linear" or "log"), of integers if low is one
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "info" in cls.__dict__:
            cls.name = cls.info.name

    @classmethod
    def parameter_defaults(cls) -> dict[str, Any]:
        """Constructor parameters and their defaults."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if name != "self"
        }

    def get_params(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.parameter_defaults()}

    def clone(self, **changes: Any) -> Self:
        """An unfitted copy with some parameters changed."""
        return type(self)(**{**self.get_params(), **changes})

    # -- what a subclass writes ------------------------------------------------------------------------------------
    @abstractmethod
    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        """Learn from ``data``; return the model of its rows, and further arguments of `Imputation`."""

    def _new_rows(self, data: Data) -> Model:
        """The model of rows that were not trained on; its attribute ``latent``, if it has one, represents them."""
        raise InputError(f"{self.name} cannot impute rows it was not fitted on: use fit_transform on all rows together")

    def _posterior_shape(self, data: Data) -> np.ndarray:
        """(G,) shape of each gene's prior for the posterior step; called after `_fit`."""
        return fit_shape(self.clone(posterior=False), data, random_state=getattr(self, "random_state", 0))

    def _state(self) -> dict[str, np.ndarray]:
        """Learned arrays, for `save`."""
        return {}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Put back what `_state` gave."""
        return

    # -- what users call -------------------------------------------------------------------------------------------
    def _tell(self, share: float, text: str) -> None:
        """Tell whoever asked how far a fit is; that may end it by raising."""
        if self.progress is not None:
            self.progress(share, text)

    def fit(self, data: Any) -> Self:
        """Learn from ``data``: `Data`, or a matrix of cells x genes."""
        self.fit_transform(data)
        return self

    def fit_transform(self, data: Any) -> Imputation:
        """Learn from ``data`` and impute its rows."""
        data = self._accept(data)
        n, G = data.shape
        usable_rows, usable_columns = (int((c > 0).sum()) for c in data.observed_counts())
        if usable_rows < 2 or usable_columns < 2:
            raise InputError(
                f"imputation learns from other cells and genes: at least 2 cells and 2 genes with observed values "
                f"are needed, and of {n} x {G} only {usable_rows} x {usable_columns} have any"
            )
        model, result = self._fit(self._linked(data))
        self.feature_names_ = data.var_names
        self.kind_: Kind = data.kind
        self.bounds_ = data.bounds
        self.covariate_names_ = [] if data.covariates is None else [str(name) for name in data.covariates.columns]
        self.training_totals_ = data.gene_totals if data.kind == "counts" else None
        if self.posterior:
            from imputome.core.posterior import PosteriorModel

            self.shape_ = self._posterior_shape(data)
            model = PosteriorModel(model, data, self.shape_).matched_to_total()
            self.total_factor_ = model.factor
            result["gene_columns"] = {**result.get("gene_columns", {}), "posterior_shape": self.shape_}
        return self._imputation(model, data, **result)

    def transform(self, data: Any) -> Imputation:
        """Impute new rows with what was learned; the columns must be those of the training data, in that order."""
        if not hasattr(self, "feature_names_"):
            raise NotFittedError(f"{self.name} is not fitted yet: call fit first")
        data = replace(self._accept(data, kind=self.kind_), bounds=self.bounds_)
        if data.X.shape[1] != len(self.feature_names_):
            raise ModelFormatError(
                f"the model was fitted on {len(self.feature_names_)} features, this input has {data.X.shape[1]}"
            )
        if not data.var_names.equals(self.feature_names_):
            wrong = np.flatnonzero(np.asarray(data.var_names) != np.asarray(self.feature_names_))
            raise ModelFormatError(
                f"feature names differ from the model's at {len(wrong)} places, first at position {wrong[0]}: "
                f"{data.var_names[wrong[0]]!r} here, {self.feature_names_[wrong[0]]!r} in the model; "
                "give the same features in the same order"
            )
        model = self._new_rows(self._linked(data))
        latent = getattr(model, "latent", None)
        if self.posterior:
            from imputome.core.posterior import PosteriorModel

            model = PosteriorModel(model, data, self.shape_, factor=self.total_factor_)
        return self._imputation(model, data, latent=latent)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the fitted estimator to the directory ``path``: JSON and arrays, no pickle."""
        from imputome.core.saved import write_model

        if not hasattr(self, "feature_names_"):
            raise NotFittedError(f"{self.name} is not fitted yet: call fit before save")
        arrays = self._state()
        if self.posterior:
            arrays = {**arrays, "posterior_shape": self.shape_, "posterior_factor": np.array(self.total_factor_)}
        if self.training_totals_ is not None:
            arrays = {**arrays, "training_totals": self.training_totals_}
        header: dict[str, Any] = {"method": self.name, "params": self.get_params(), "kind": self.kind_}
        header["bounds"] = [bound if np.isfinite(bound) else None for bound in self.bounds_]
        header["link"] = self.link
        header["feature_names"] = [str(name) for name in self.feature_names_]
        header["covariates"] = self.covariate_names_
        header["provenance"] = self.provenance
        write_model(Path(path), header, arrays, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an estimator written by `save`; loading runs no code from the directory."""
        import pandas as pd

        from imputome.core.saved import read_model

        header, arrays = read_model(Path(path))
        if header["method"] != cls.name:
            raise ModelFormatError(f"{path} holds a {header['method']!r} model, not {cls.name!r}: use methods.load")
        header["params"] = cls._params_from_saved(header["params"])
        unknown = set(header["params"]) - set(cls.parameter_defaults())
        if unknown:
            raise ModelFormatError(f"{path} has parameters this version does not know: {', '.join(sorted(unknown))}")
        estimator = cls(**header["params"])
        estimator.feature_names_ = pd.Index(header["feature_names"])
        estimator.kind_ = header["kind"]
        estimator.link = header.get("link", "identity")
        estimator.covariate_names_ = header.get("covariates", [])
        estimator.provenance = header.get("provenance")
        estimator.training_totals_ = arrays.pop("training_totals", None)
        low, high = header["bounds"]
        estimator.bounds_ = (-np.inf if low is None else low, np.inf if high is None else high)
        try:
            if estimator.posterior:
                estimator.shape_ = arrays.pop("posterior_shape")
                estimator.total_factor_ = float(arrays.pop("posterior_factor"))
            estimator._restore(arrays)
        except KeyError as error:
            raise ModelFormatError(f"{path} is incomplete: the array {error} is missing") from error
        return estimator

    @classmethod
    def _params_from_saved(cls, params: dict[str, Any]) -> dict[str, Any]:
        """Constructor parameters, from those of a saved model; a subclass may drop what older versions stored."""
        return params

    def _accept(self, data: Any, kind: Kind | None = None) -> Data:
        kinds = self.info.kinds
        if not isinstance(data, Data):
            only: Kind | None = next(iter(kinds)) if len(kinds) == 1 else None
            data = as_data(data, kind=kind or only)
        if data.kind not in kinds:
            raise InputError(
                f"{self.name} takes {' or '.join(sorted(kinds))} data, not {data.kind}: "
                "`imputome methods` lists what takes which"
            )
        if self.posterior and data.kind != "counts":
            raise InputError("the posterior step needs counts: pass posterior=False for real-valued data")
        if kind is not None and data.kind != kind:
            raise ModelFormatError(f"the model was fitted on {kind} data, this input is {data.kind}")
        return data

    def _linked(self, data: Data) -> Data:
        """The values that the method works on."""
        if self.link == "identity":
            return data
        if data.kind == "counts":
            raise InputError(f"the transform {self.link} is for real values, and these are counts: leave it out")
        return replace(data, X=link(self.link).forward(data.X), bounds=(-np.inf, np.inf))

    def _imputation(self, model: Model, data: Data, **result: Any) -> Imputation:
        if self.link != "identity":
            model = LinkedModel(model, link(self.link))
        scale: Scale = "counts" if data.kind == "counts" else "input"
        keeps = (self.info.keeps_observed or data.kind == "real") and not self.posterior
        return Imputation(model, replace(data, covariates=None), scale=scale, keeps_observed=keeps, **result)


LARGEST_SEED = 2**32 - 1


def check_parameters(method: type[Imputer], given: dict[str, Any]) -> None:
    """Refuse unknown names and values of the wrong type, before any work.

    Raises
    ------
    InputError
        Naming the parameter, what was given, and what it takes.
    """
    known = method.parameter_defaults()
    hints = get_type_hints(method.__init__)
    for name, value in given.items():
        value = value.item() if isinstance(value, np.generic) else value
        if name not in known:
            there = ", ".join(known) or "none"
            raise InputError(f"{method.name} has no parameter {name!r}; its parameters: {there}")
        if not _fits(value, hints[name]):
            raise InputError(f"{method.name}: {name}={value!r} is not {_words(hints[name])}")
        if name == "random_state" and not 0 <= value <= LARGEST_SEED:
            raise InputError(f"{method.name}: random_state={value} must lie in 0 to {LARGEST_SEED}")


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return any(value == allowed and type(value) is type(allowed) for allowed in get_args(hint))
    if get_origin(hint) is tuple:  # of any length; a saved model gives back a list
        return isinstance(value, tuple | list) and all(_fits(part, get_args(hint)[0]) for part in value)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(repr(allowed) for allowed in get_args(hint))
    if get_origin(hint) is tuple:
        return f"several, each {_words(get_args(hint)[0])}"
    plain = {float: "a finite number", int: "an integer", bool: "True or False", type(None): "None"}
    return plain.get(hint, getattr(hint, "__name__", str(hint)))


def fit_shape(estimator: Imputer, data: Data, *, random_state: int = 0) -> np.ndarray:
    """Shape phi of every gene's prior, from molecules that the method did not see.

    The molecules are dealt into `FOLDS` parts. The method is fitted on all parts but the first; then each part in turn
    is x2 and the others are x1, and phi maximises the predictive likelihood of the x2: negative binomial with size
    phi + x1 and mean ``ratio`` (depth of x2 over that of x1) times the posterior mean at x1, see `pooled_shape`. Of a
    method that cannot impute new rows exactly, the first x2 alone is used.

    Returns
    -------
    (G,) float64.

    Cost: one fit of the method, and for each part used (all up to 20 million n x G, one above 100 million)
    one pass over n x G rates in blocks, with one table look-up per rate where the counts are zero and one evaluation
    per grid point elsewhere.

    Raises
    ------
    InputError
        The counts are not integers.
    """
    from imputome.core.posterior import deal, pooled_shape, split

    if not is_integer(data.X.data):
        raise InputError(
            "the posterior step needs raw counts (integers): pass the layer that holds them, or posterior=False"
        )
    dealt = deal(data, np.random.default_rng(random_state))
    fitted = estimator.fit_transform(split(data, dealt[0])[0])
    if estimator.info.new_rows == "exact":
        return pooled_shape(data, dealt, lambda seen: estimator.transform(seen).model)[0]
    return pooled_shape(data, dealt[:1], lambda seen: fitted.model)[0]
