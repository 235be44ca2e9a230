"""Reports never hold what JSON has no word for."""

import json

import numpy as np
import pytest

from gmeta_tf.evaluation.json_report import json_report, without_nan


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_what_is_no_number_is_null(value):
    text = json_report({"auc": value, "deep": [{"x": (1, value)}], "n": 3, "word": "NaN"})
    expected = {"auc": None, "deep": [{"x": [1, None]}], "n": 3, "word": "NaN"}
    assert json.loads(text, parse_constant=pytest.fail) == expected


def test_numbers_stay():
    values = {"auc": 0.25, "tasks": 7, "flag": True, "none": None}
    assert without_nan(values) == values
    assert json_report({"größe": 1.5}, ensure_ascii=False) == '{"größe": 1.5}'
