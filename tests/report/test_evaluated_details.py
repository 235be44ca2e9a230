"""What an evaluation tells beyond its table, as figures take it."""

import pathlib

import pytest
from made_run import DETAILS, SIDE

from gmeta_tf.report.evaluated_details import evaluated_details

REPORT = {"auc_adapted": 0.75, "auc_unadapted": 0.5} | DETAILS


def details_of(report):
    return evaluated_details(pathlib.Path("evaluation-test.json"), report)


def test_all_details():
    found = details_of(REPORT)
    assert found["support_curve"] == {"metric": "auc", "sizes": [0, 5], "values": [0.5, 0.75]}
    assert found["inner_steps_curve"] == {"metric": "auc", "sizes": [3], "values": [None]}
    assert found["segments"] == {
        "field": "age",
        "metric": "auc",
        "values": ["young", "all others"],
        "rows": [6.0, 2.0],
        "adapted": [0.875, None],
        "unadapted": [0.5, None],
    }
    assert found["calibration"] == {
        "adapted": {
            "predicted": [0.25, 0.75],
            "observed": [0.125, 0.875],
            "rows": [3, 5],
            "error": 0.0625,
        },
        "unadapted": {"predicted": [0.75], "observed": [0.875], "rows": [8], "error": 0.0625},
    }


def test_an_evaluation_that_was_asked_for_none():
    assert details_of({"auc_adapted": 0.75, "support": 10}) == {}
    assert details_of({}) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("support_sizes", [{"auc_adapted": 0.5}]),
        ("support_sizes", 7),
        ("segments", [{"value": "x"}]),
        ("calibration", {"adapted": SIDE}),
        ("calibration", [1]),
    ],
)
def test_details_that_evaluate_does_not_write(name, value):
    with pytest.raises(ValueError, match=r"evaluation-test\.json is not as `gmeta-tf evaluate`"):
        details_of(REPORT | {name: value})
