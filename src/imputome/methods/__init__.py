"""Methods by name: `names`, `info`, `get`, `create`, `load`, `controls`.

Everywhere a method can be given as a registered name, as a class derived from `Imputer`, or as an unfitted estimator.
Installed packages register methods of their own through the entry-point group ``imputome.methods``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import imputome.methods.controls  # noqa: F401  (first, or its import would later hide the function of this name)
from imputome.core.info import MethodInfo
from imputome.errors import InputError, ModelFormatError, missing_extra
from imputome.methods.registry import METHODS

__all__ = ["DEFAULT", "REFERENCE", "Method", "controls", "create", "form", "get", "info", "load", "names"]

if TYPE_CHECKING:  # NumPy would take half of the time that listing the methods takes
    from imputome.core.data import Kind
    from imputome.core.imputer import Imputer

    Method = str | type[Imputer] | Imputer  # a registered name, a class, or an unfitted estimator
else:
    Method = Any

# the default method for each kind of data, and a method for counts that needs no optional dependency
DEFAULT: dict[Kind, str] = {"counts": "count_autoencoder", "real": "gaussian_copula"}
WITHOUT_EXTRAS = "count_factors"
# the control that each gene's error is compared with
REFERENCE: dict[Kind, str] = {"counts": "gene_mean_posterior", "real": "mean"}
GROUP = "imputome.methods"  # entry-point group in which installed packages register methods


def names() -> tuple[str, ...]:
    """Names of all methods: those of this package, in the order of the registry, then those of installed packages.

    Returns
    -------
    tuple of str
        The names.

    Examples
    --------
    >>> import imputome
    >>> "ialm" in imputome.methods.names()
    True
    """
    return (*METHODS, *_installed())


def form(method: Any) -> Literal["name", "class", "instance"]:
    """Whether a method is given as a name, a class or an estimator; ``info(method).name`` is its name in each case.

    Parameters
    ----------
    method : str, class or Imputer
        The method; a name need not be registered.

    Returns
    -------
    {"name", "class", "instance"}
        How it is given.

    Raises
    ------
    InputError
        It is neither a text, nor a class derived from `Imputer`, nor an instance of one.

    Examples
    --------
    >>> import imputome
    >>> imputome.methods.form("knn"), imputome.methods.form(imputome.methods.create("knn"))
    ('name', 'instance')
    """
    if isinstance(method, str):
        return "name"
    _check_class(method if isinstance(method, type) else type(method), repr(method))
    return "class" if isinstance(method, type) else "instance"


def info(method: Method) -> MethodInfo:
    """What a method is. The code of a method of this package is not imported for it.

    Parameters
    ----------
    method : str, class or Imputer
        A registered name, a class derived from `Imputer`, or an estimator.

    Returns
    -------
    MethodInfo
        Its name, kinds of data, scale, source and so on.

    Raises
    ------
    InputError
        As `get`.

    Examples
    --------
    >>> import imputome
    >>> imputome.methods.info("ialm").new_rows
    'projection'
    """
    if isinstance(method, str) and method in METHODS:
        return _imported(METHODS[method][0])
    return get(method).info


def get(method: Method) -> type[Imputer]:
    """The class of a method.

    Parameters
    ----------
    method : str, class or Imputer
        A registered name, a class derived from `Imputer`, or an estimator.

    Returns
    -------
    class
        Derived from `Imputer`.

    Raises
    ------
    InputError
        The name is not registered, the package that registers it cannot be imported, or the class is not an `Imputer`
        or has no ``info``.
    MissingExtraError
        The method needs an optional dependency; the message gives the ``pip install``.

    Examples
    --------
    >>> import imputome
    >>> imputome.methods.get("knn").__name__
    'KNN'
    """
    if not isinstance(method, str):
        return _check_class(method if isinstance(method, type) else type(method), repr(method))
    if method in METHODS:
        info_path, class_path = METHODS[method]
        try:
            return _imported(class_path)
        except ModuleNotFoundError as error:
            extra = _imported(info_path).extra
            if extra is None or (error.name or "").startswith("imputome"):
                raise
            raise missing_extra(f"method {method!r}", str(error.name), extra) from error
    if method in _installed():
        return _load_entry_point(_installed()[method])
    from difflib import get_close_matches

    like = get_close_matches(method.lower().replace("-", "_").replace(" ", "_"), names(), 1)
    meant = f"did you mean {like[0]}? " if like else ""
    meant = "pass several methods as a list; " if "," in method else meant
    text = f"there is no method {method!r}: {meant}choose one of {', '.join(names())}"
    raise InputError(text, code="unknown-method", parameter="method")


def create(method: Method, params: Mapping[str, Any] | None = None, *, random_state: int = 0) -> Imputer:
    """An unfitted estimator; `fit` checks the values of its parameters.

    Parameters
    ----------
    method : str, class or Imputer
        A registered name, a class derived from `Imputer`, or an estimator; a copy of it is changed and returned.
    params : mapping, default=None
        Parameters to set, by name.
    random_state : int, default=0
        Seed, if the method has one and neither ``params`` nor the estimator sets another one than the default.

    Returns
    -------
    Imputer
        A new one.

    Raises
    ------
    InputError
        A name in ``params`` is not a parameter of the method; or as `get`.

    Examples
    --------
    >>> import imputome
    >>> imputome.methods.create("knn", {"n_neighbors": 5})
    KNN(n_neighbors=5)
    >>> imputome.methods.create(imputome.methods.create("svd", {"rank": 3}), {"tol": 0.01})
    IterativeSVD(rank=3, tol=0.01)
    """
    from imputome.core.imputer import Imputer
    from imputome.core.parameters import check_names

    cls = get(method)
    defaults = cls.parameter_defaults()
    current = method.get_params() if isinstance(method, Imputer) else defaults
    chosen = dict(params or {})
    if "random_state" in defaults and current["random_state"] == defaults["random_state"]:
        chosen.setdefault("random_state", random_state)
    check_names(cls, chosen)
    return method.clone(**chosen) if isinstance(method, Imputer) else cls(**chosen)


def load(path: str | Path) -> Imputer:
    """A fitted estimator, of the class that was saved, from a directory that `Imputer.save` wrote.

    Parameters
    ----------
    path : str or Path
        The directory.

    Returns
    -------
    Imputer
        With the parameters that it was saved with.

    Raises
    ------
    ModelFormatError
        The directory holds no model, or one of a method that is not registered here.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import imputome
    >>> estimator = imputome.methods.create("median").fit(np.array([[1.0, 5.0], [3.0, np.nan], [2.0, 7.0]]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     estimator.save(Path(folder) / "model")
    ...     imputome.methods.load(Path(folder) / "model")
    FeatureMedian()
    """
    from imputome.core.saved import read_header

    name = read_header(Path(path)).method
    if name not in names():
        text = f"{path} holds a model of the method {name[:40]!r}, which is not installed here: install its package"
        raise ModelFormatError(f"{text}, or call the load function of its class", code="model-of-unknown-method")
    return get(name).load(path)


def controls(kind: Kind) -> tuple[str, ...]:
    """The controls for a kind of data: simple methods that a method must beat.

    They are the methods whose `MethodInfo` says ``control``. Every comparison (study, race, check) includes them all.

    Parameters
    ----------
    kind : {"counts", "real"}
        The kind of data.

    Returns
    -------
    tuple of str
        Their names; none for another kind.

    Examples
    --------
    >>> import imputome
    >>> imputome.methods.controls("real")
    ('random', 'mean', 'median')
    """
    return tuple(name for name in METHODS if info(name).control and kind in info(name).kinds)


@cache
def _installed() -> dict[str, EntryPoint]:
    """Methods of other installed packages, by name; they cannot replace a method of this package."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in METHODS}


def _load_entry_point(point: EntryPoint) -> type[Imputer]:
    package = point.dist.name if point.dist is not None else point.value
    try:
        cls = point.load()
    except Exception as error:  # code of others: whatever it raises must not hide the other methods
        text = f"the method {point.name!r} of the package {package} cannot be imported: {error}"
        raise InputError(text, code="method-import") from error
    cls = _check_class(cls, f"{point.value} (method {point.name!r} of the package {package})")
    if cls.info.name != point.name:
        text = f"the package {package} registers {point.value} as {point.name!r}, but its info says {cls.info.name!r}"
        raise InputError(f"{text}: use one name in both", code="method-name")
    return cls


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(f"imputome.methods.{module}"), name)


def _check_class(cls: Any, shown: str) -> type[Imputer]:
    from imputome.core.imputer import Imputer

    if not (isinstance(cls, type) and issubclass(cls, Imputer)):
        text = f"{shown} is not a method: pass a name, a subclass of imputome.core.imputer.Imputer, or an estimator"
        raise InputError(text, code="not-a-method", parameter="method")
    if not isinstance(getattr(cls, "info", None), MethodInfo):
        text = f"the class {cls.__name__} has no info: give it a class attribute info = MethodInfo(...)"
        raise InputError(text, code="method-without-info", parameter="method")
    return cls
