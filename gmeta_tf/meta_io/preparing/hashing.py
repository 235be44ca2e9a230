"""Values to keys without a vocabulary: one published hash function, the same everywhere.

The fingerprint is FarmHash's Fingerprint64 of the value's UTF-8 bytes, unsigned. It never changes,
and many systems have it: `tf.strings.to_hash_bucket_fast` (what served models use), Guava's
`Hashing.farmHashFingerprint64`, BigQuery's `FARM_FINGERPRINT` (signed there).

Reference: https://github.com/google/farmhash, `util::Fingerprint64`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

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
    texts = tf.constant([str(value) for value in values], tf.string)
    with tf.device("/CPU:0"):
        return 1 + tf.strings.to_hash_bucket_fast(texts, hash_buckets(table)).numpy()
