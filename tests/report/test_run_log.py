"""A run's log, read back into curves."""

import math

import pytest

from gmeta_tf.report.run_log import Curve, read_log


def curves_of(tmp_path, text):
    path = tmp_path / "log.txt"
    path.write_text(text)
    return read_log(path)


def test_each_name_is_a_curve(tmp_path):
    found = curves_of(tmp_path, "epoch 1  loss 0.5  my table_evictions 3\nepoch 2  loss 1e-05\n")
    assert found == {
        "loss": Curve([1, 2], [0.5, 1e-5]),
        "my table_evictions": Curve([1], [3.0]),
    }


def test_what_was_trained_again_counts_as_it_was_last(tmp_path):
    found = curves_of(tmp_path, "epoch 1  a 1\nepoch 2  a 2\nepoch 2  a 7\nepoch 3  a 3\n")
    assert found == {"a": Curve([1, 2, 3], [1.0, 7.0, 3.0])}


def test_a_line_that_a_killed_run_was_writing_is_left_out(tmp_path):
    assert curves_of(tmp_path, "epoch 1  a 1\nepoch 2  a 0.2") == {"a": Curve([1], [1.0])}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_value_that_is_no_number(tmp_path, value):
    (found,) = curves_of(tmp_path, f"epoch 1  a {value}\n").values()
    assert math.isnan(found.values[0])


def test_a_run_that_has_not_ended_an_epoch(tmp_path):
    assert read_log(tmp_path / "log.txt") == {}
    assert curves_of(tmp_path, "") == {}


@pytest.mark.parametrize(
    "line", ["loss 1", "epoch x  a 1", "epoch 1  a", "epoch 1", "epoch 1  a 1 "]
)
def test_a_line_that_no_run_writes(tmp_path, line):
    with pytest.raises(ValueError, match=r"log\.txt, line 2: expected `epoch 3  loss .* got '"):
        curves_of(tmp_path, f"epoch 1  a 1\n{line}\n")
