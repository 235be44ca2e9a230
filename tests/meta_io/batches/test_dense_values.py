"""Dense values in the graph: against a slow twin, value by value."""

import math

import numpy as np
import pytest
import tensorflow as tf
from made_dense import SCHEMA, columns_twin

import gmeta_tf as gm
from gmeta_tf.meta_io.batches.dense_values import dense_columns
from gmeta_tf.schema import Fitted

FITTED = SCHEMA.with_fitted(
    {
        "year": Fitted(1980.0, 20.0, 1980.0),
        "age": Fitted(10.0, 60.0, 40.0),
        "hours": Fitted(mean=4.0, edges=(0.5, 2.0, 7.0)),
        "size": Fitted(mean=0.6),
    }
)


def test_every_transform_is_that_of_the_twin():
    rows = [
        [2000.0, -5.0, 10.0, 0.5, -1.0, 3.5],
        [None, 0.0, None, None, None, None],
        [1980.0, 1e6, 70.0, 100.0, 1e9, 0.0],
        [1930.0, 2.5, 40.0, 0.49, -1.5, -7.25],
    ]
    expected = [
        [
            number
            for field, value in zip(FITTED.dense_fields, row, strict=True)
            for number in columns_twin(field, value)
        ]
        for row in rows
    ]
    assert FITTED.num_dense_columns == len(expected[0]) == 1 + 1 + 1 + 5 + 4 + 2
    values = np.array([[math.nan if one is None else one for one in row] for row in rows])
    found = dense_columns(tf.constant(values[np.newaxis], tf.float32), FITTED)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    # A missing year is the mean of years, a missing age is 30 years, and hours have an indicator.
    assert expected[1][:3] == [0.0, 0.0, pytest.approx(1 / 3)]
    assert expected[1][3:8] == [0, 0, 0, 0, 1]


def test_fields_without_a_transform_are_left_as_they_are():
    schema = gm.Schema((gm.Field("item"), gm.Field("a", "dense")), "y", "u")
    values = tf.constant([[[3.0], [math.nan]]])
    assert dense_columns(values, schema) is values


def test_what_has_not_been_fitted_is_an_error():
    with pytest.raises(ValueError, match=r"'year' is not fitted: .*Use the schema of the records"):
        dense_columns(tf.zeros([1, 1, 6]), SCHEMA)
    with pytest.raises(ValueError, match=r"'year' is not fitted"):
        assert SCHEMA.num_dense_columns
