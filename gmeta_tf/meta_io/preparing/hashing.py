"""Values to keys without a vocabulary: one published hash function, the same everywhere.

The fingerprint is FarmHash's Fingerprint64 of the value's UTF-8 bytes, unsigned. It never changes,
and many systems have it: `tf.strings.to_hash_bucket_fast` (what served models use), Guava's
`Hashing.farmHashFingerprint64`, BigQuery's `FARM_FINGERPRINT` (signed there).

Reference: https://github.com/google/farmhash, `util::Fingerprint64`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence

import numpy as np

from gmeta_tf.schema import LARGEST_KEY, Table

__all__ = ["hash_buckets", "hashed_keys"]


def hash_buckets(table: Table) -> int:
    """How many keys the values of a table with hashed keys are spread over: keys 1 to this."""
    return (table.num_rows or LARGEST_KEY) - 1


def hashed_keys(values: Sequence[str] | np.ndarray, table: Table) -> np.ndarray:
    """The keys of values that are not missing: `1 + Fingerprint64(value) % hash_buckets`.

    Args:
        values: texts, white space cut off, `[n]`.
        table: with hashed keys.

    Returns:
        int64 `[n]`.

    Example:
        >>> hashed_keys(["shoe", "hat"], Table("item", 100, keys="hash")).tolist()
        [12, 19]
    """
    texts = [str(value).encode("utf-8") for value in values]
    return 1 + _hash_function()(texts, hash_buckets(table))


@functools.cache
def _hash_function() -> Callable[[list[bytes], int], np.ndarray]:
    """Texts and a number of buckets -> int64 `[n]`, the remainders of their fingerprints.

    The package `cityhash` has no wheel for every platform that TensorFlow has one for.
    """
    try:
        return functools.partial(_remainders, importlib.import_module("farmhash").Fingerprint64)
    except ImportError:
        return _remainders_by_tensorflow


def _remainders(
    fingerprint: Callable[[bytes], int], texts: list[bytes], buckets: int
) -> np.ndarray:
    return np.fromiter((fingerprint(text) % buckets for text in texts), np.int64, len(texts))


def _remainders_by_tensorflow(texts: list[bytes], buckets: int) -> np.ndarray:
    tf = importlib.import_module("tensorflow")
    with tf.device("/CPU:0"):
        return tf.strings.to_hash_bucket_fast(tf.constant(texts, tf.string), buckets).numpy()
