"""Hashed keys: those of TensorFlow's op, which is what served models use."""

from __future__ import annotations

import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from gmeta_tf.meta_io.preparing import hashing
from gmeta_tf.meta_io.preparing.hashing import hash_buckets, hashed_keys
from gmeta_tf.schema import Table

# FarmHash has a way of its own for up to 16, 32 and 64 bytes, and for more.
TEXTS = ["x" * length for length in (0, 1, 3, 4, 7, 8, 16, 17, 32, 33, 64, 65, 127, 128, 129, 1000)]


def keys_of_tensorflow(values: list[str], table: Table) -> list[int]:
    return (1 + tf.strings.to_hash_bucket_fast(values, hash_buckets(table)).numpy()).tolist()


@pytest.fixture(autouse=True)
def found_anew():
    hashing._hash_function.cache_clear()
    yield
    hashing._hash_function.cache_clear()


@hypothesis.given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=90), min_size=1),
    st.sampled_from([None, 2, 3, 1000, 2**40]),
)
@hypothesis.example(TEXTS, None)
@hypothesis.settings(deadline=None, max_examples=40)  # the first call waits for TensorFlow
def test_keys_are_those_of_tensorflow(values, num_rows):
    table = Table("item", num_rows, keys="hash")
    keys = hashed_keys(np.array(values, object), table)
    assert keys.dtype == np.int64
    assert keys.tolist() == keys_of_tensorflow(values, table)
    assert "farmhash" in sys.modules  # what was compared


def test_without_the_package_tensorflow_gives_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "farmhash", None)  # as if it could not be imported
    table = Table("item", 100, keys="hash")
    assert hashed_keys(["shoe", "hat"], table).tolist() == [12, 19]
    assert hashed_keys([], table).tolist() == []
