"""Columns of raw rows: which texts stand for values, and what is said of values without one."""

import numpy as np
import pytest

from gmeta_tf.saving.exports.raw_columns import numbers_of, tasks_of, texts_of


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([7, -1, 2**63 - 1]), ["7", "-1", str(2**63 - 1)]),
        (np.array([2**64 - 1], np.uint64), [str(2**64 - 1)]),
        (np.array([True, False]), ["true", "false"]),
        (np.array(["a", " b "]), ["a", " b "]),
        (np.array([b"a"]), ["a"]),
        (
            np.array(["a", None, float("nan"), 3, True, np.int32(4), b"x"], object),
            ["a", "", "", "3", "true", "4", "x"],
        ),
        (np.array([], float), []),
    ],
)
def test_texts(values, expected):
    assert texts_of(values, "x").tolist() == expected


def test_lists_of_a_multi_valued_field():
    values = np.empty(5, object)
    masked = np.ma.masked_array(["d", "e"], [True, False], object)
    values[:] = [["a", "b"], (1, None, 2), np.array(["c"]), "a|b", masked]
    assert texts_of(values, "x", "|").tolist() == ["a|b", "1||2", "c", "a|b", "|e"]


@pytest.mark.parametrize(
    ("values", "separator", "message"),
    [
        (
            [1.5],
            None,
            r"x, row 1 \(.*\): expected a text, an integer, .* got float 1.5. Give the text",
        ),
        (["a", ["b"]], None, r"x, row 2 \(.*\): expected a text, .* got list \['b'\]"),
        (["a", ["b|c"]], "|", r"x, row 2 \(.*\): expected values without .* '\|', got 'b\|c'"),
    ],
)
def test_what_stands_for_no_text(values, separator, message):
    column = np.empty(len(values), object)
    column[:] = values
    with pytest.raises(ValueError, match=message):
        texts_of(column, "x", separator)


def test_tasks_are_told_apart_without_white_space():
    assert tasks_of(np.array([" 7", "7\n", "a b"]), "x").tolist() == ["7", "7", "a b"]
    assert tasks_of(np.array([7]), "x").tolist() == ["7"]
    # Other white space is part of a task, as in `prepare`.
    assert tasks_of(np.array(["\u00a07"]), "x").tolist() == ["\u00a07"]


@pytest.mark.parametrize("nobody", ["", "  ", None])
def test_a_row_without_a_task(nobody):
    with pytest.raises(ValueError, match=r"x, row 2 \(counted from 1, .*\): expected a task, got"):
        tasks_of(np.array(["u", nobody], object), "x")


def test_numbers():
    found = numbers_of(np.array(["1", " 2.5 ", 3, True], object), "x")
    assert found.dtype == np.float32
    assert found.tolist() == [1, 2.5, 3, 1]
    assert numbers_of(np.array([1, 2]), "x").tolist() == [1, 2]


@pytest.mark.parametrize(
    "bad", ["", "x", None, "nan", "inf", 1e39, [1], "1_000", "\u0661", "\u00a07"]
)
def test_what_is_no_finite_number(bad):
    values = np.empty(2, object)
    values[:] = [1, bad]
    with pytest.raises(
        ValueError, match=r"x, row 2 \(.*\): expected a finite number, got .*Correct"
    ):
        numbers_of(values, "x")


def test_numbers_of_at_least_some():
    given = np.array(["0", 2.5, -0.0], object)
    assert numbers_of(given, "w", least=0.0).tolist() == [0, 2.5, 0]
    with pytest.raises(ValueError, match=r"w, row 2 .*: expected a finite number of at least 0"):
        numbers_of(np.array([1.0, -0.5]), "w", least=0.0)


def test_a_float_column_with_a_hole():
    with pytest.raises(ValueError, match=r"x, row 1 .* got (np.float64\()?nan"):
        numbers_of(np.array([np.nan, 1.0]), "x")
