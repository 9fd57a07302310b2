"""The methods for real values as a scikit-learn transformer: `Imputer`."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.impute import MissingIndicator
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from imputome.core.data import Data, as_data
from imputome.core.imputation import Imputation
from imputome.core.parameters import check_parameters
from imputome.errors import InputError
from imputome.methods import create
from imputome.result.adapt import chosen_link

__all__ = ["Imputer"]


class Imputer(TransformerMixin, BaseEstimator):
    """Impute missing real values: array or data frame with NaN in, array or data frame without NaN out.

    It works as the imputers of scikit-learn do, in a `~sklearn.pipeline.Pipeline` and in cross-validation, with any
    method of imputome that takes real values. For counts use `imputome.impute`.

    Parameters
    ----------
    method : str, class or imputome.core.imputer.Imputer, default="gaussian_copula"
        A name of ``imputome.methods.names()``, a method of your own, or an unfitted estimator.
    params : dict, default=None
        Parameters of the method, by name. ``imputome.methods.get(method)`` documents them.
    missing_values : int, float, np.nan, None or pandas.NA, default=np.nan
        The value that means missing. NaN, None and pandas.NA are all read as missing if it is one of them.
    add_indicator : bool, default=False
        Append a column of 0 and 1 for each feature that had missing values at `fit`: 1 where the value was missing
        (see `~sklearn.impute.MissingIndicator`).
    keep_empty_features : bool, default=False
        Keep features without any value at `fit`, with 0 for missing values; otherwise they are left out.
    link : {"none", "asinh", "clip", "logit", "neglog"}, default=None
        Transform on which values are imputed, see `imputome.core.links`; results are in the unit of the input. None
        takes ``"asinh"`` if the values have heavy tails, as `imputome.impute` does. (`imputome.impute` calls it
        ``transform``, which is a method here.)
    random_state : int, default=0
        Seed, unless ``params`` or an estimator given as ``method`` sets one.

    Attributes
    ----------
    estimator_ : imputome.core.imputer.Imputer
        The fitted method, without the features that were empty at `fit`.
    indicator_ : MissingIndicator or None
        It makes the columns of ``add_indicator``.
    n_features_in_ : int
        Number of features at `fit`.
    feature_names_in_ : ndarray of str
        Names of the features at `fit`, if the input had names.

    See Also
    --------
    imputome.impute : Impute an AnnData, with a check of the result.
    sklearn.impute.KNNImputer : A simpler method of scikit-learn.

    Notes
    -----
    Observed values are returned unchanged. `fit_transform` returns the values that the method gives for its training
    rows; for some methods (``MethodInfo.new_rows`` other than ``"exact"``) `transform` of the same rows gives slightly
    different values. Non-negative training data give non-negative values, and data in [0, 1] values in [0, 1]. At
    least 2 samples and 2 features with values are needed.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.sklearn import Imputer
    >>> X = np.array([[1.0, 2.0, np.nan], [2.0, 4.0, 6.0], [3.0, np.nan, 9.0]])
    >>> Imputer("knn", params={"n_neighbors": 1}).fit_transform(X)
    array([[1., 2., 6.],
           [2., 4., 6.],
           [3., 4., 9.]])
    """

    def __init__(
        self,
        method: Any = "gaussian_copula",
        *,
        params: dict[str, Any] | None = None,
        missing_values: Any = np.nan,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        link: Literal["none", "asinh", "clip", "logit", "neglog"] | None = None,
        random_state: int = 0,
    ) -> None:
        self.method = method
        self.params = params
        self.missing_values = missing_values
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.link = link
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from ``X``; ``y`` is not used.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Values, with missing ones among them.

        Returns
        -------
        Imputer
            This transformer.

        Raises
        ------
        InputError
            The method is unknown or does not take real values, a parameter has a wrong value, or fewer than 2 samples
            or 2 features have values.
        """
        self._fit(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Learn from ``X`` and fill its missing values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Values, with missing ones among them; ``y`` is not used.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), or a data frame after ``set_output``
            ``X`` without missing values.

        Raises
        ------
        InputError
            As `fit`.
        """
        values, result = self._fit(X)
        return self._assembled(values, result)

    def transform(self, X: Any) -> Any:
        """Fill the missing values of ``X`` with the fitted method.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples with the features of `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), or a data frame after ``set_output``
            ``X`` without missing values.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        ValueError
            ``X`` has other features than `fit` saw.
        """
        check_is_fitted(self)
        values = self._validated(X, reset=False)
        incomplete = np.isnan(values[:, self._has_values]).any()
        return self._assembled(values, self.estimator_.transform(self._data(values)) if incomplete else None)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of the output.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the features, if ``X`` had none at `fit`; by default ``x0``, ``x1``, ...

        Returns
        -------
        ndarray of str
            One name for each column.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            `fit` was not called.
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        kept = names if self.keep_empty_features else names[self._has_values]
        if self.indicator_ is None:
            return kept
        return np.concatenate([kept, self.indicator_.get_feature_names_out(names)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._missing_is_nan
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _missing_is_nan(self) -> bool:
        marker = self.missing_values
        return marker is None or marker is pd.NA or (isinstance(marker, float | np.floating) and bool(np.isnan(marker)))

    def _fit(self, X: Any) -> tuple[np.ndarray, Imputation]:
        """Fit the method; return the values with NaN, and the method's result without empty features."""
        check_parameters(type(self), self.get_params(deep=False))
        values = self._validated(X, reset=True)
        missing = np.isnan(values)
        self._has_values = ~missing.all(axis=0)
        self.indicator_ = MissingIndicator(error_on_new=False).fit(values) if self.add_indicator else None
        self.estimator_ = create(self.method, self.params, random_state=self.random_state)
        data = self._data(values)
        if self.link is not None or self.estimator_.link == "identity":
            self.estimator_.link, _ = chosen_link(data, self.estimator_.info, self.link)
        return values, self.estimator_.fit_transform(data)

    def _validated(self, X: Any, *, reset: bool) -> np.ndarray:
        """``X`` as a floating-point array with NaN for missing values."""
        marker = self.missing_values
        if self._missing_is_nan:
            X = _without_na(X)
        elif not isinstance(marker, int | float | np.number) or isinstance(marker, bool) or np.isinf(marker):
            text = f"missing_values={marker!r} is not valid, it must be a finite number, NaN, None or pandas.NA"
            raise InputError(text, code="parameter-value", parameter="missing_values")
        if isinstance(X, np.ma.MaskedArray):  # scikit-learn would take what is under the mask for values
            fill = np.nan if self._missing_is_nan else marker
            X = np.ma.filled(X.astype(np.result_type(X.dtype, np.float32)), fill)
        values = validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan" if self._missing_is_nan else True,
            # a method learns from other samples and features
            ensure_min_samples=2 if reset else 1,
            ensure_min_features=2 if reset else 1,
        )
        return values if self._missing_is_nan else np.where(values == marker, values.dtype.type(np.nan), values)

    def _data(self, values: np.ndarray) -> Data:
        return as_data(np.compress(self._has_values, values, axis=1), kind="real")

    def _assembled(self, values: np.ndarray, result: Imputation | None) -> np.ndarray:
        """The output: imputed values, empty features and the indicator; without ``result`` nothing is imputed."""
        filled = values[:, self._has_values] if result is None else result.to_array().astype(values.dtype, copy=False)
        if self.keep_empty_features and not self._has_values.all():
            whole = np.where(np.isnan(values), values.dtype.type(0), values)
            whole[:, self._has_values] = filled
            filled = whole
        if self.indicator_ is None:
            return filled
        return np.hstack([filled, self.indicator_.transform(values)])


def _without_na(X: Any) -> Any:
    """An object array or data frame with NaN for None and pandas.NA; anything else as it is."""
    if isinstance(X, pd.DataFrame):
        if not (X.dtypes == "object").any():
            return X
        return pd.DataFrame(_without_na(X.to_numpy(dtype=object)), index=X.index, columns=X.columns)
    if isinstance(X, np.ndarray) and X.dtype.kind == "O":
        return np.where(pd.isna(X), np.nan, X)
    return X
