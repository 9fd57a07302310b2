"""The base of all methods: data, results, scales, links, the posterior step, and the class of a method."""

from imputome.caches import use_writable_caches

use_writable_caches()  # before numba or scanpy is imported
