"""The figures of single tasks against slow loops."""

import numpy as np
import pytest

from gmeta_tf.report.task_quality import calibration, size_curve, task_aucs


def made_rows(seed=0, num_tasks=9):
    """Tasks of several sizes, some of one class alone, with ties."""
    draw = np.random.default_rng(seed)
    task = np.repeat(np.arange(num_tasks), draw.integers(1, 9, num_tasks))
    return {
        "task": task,
        "label": draw.integers(0, 2, len(task)).astype(np.float32),
        "adapted": draw.integers(0, 5, len(task)) / 4,
        "unadapted": draw.integers(0, 5, len(task)) / 4,
    }


def slow_auc(label, score):
    pairs = [(s > t) + (s == t) / 2 for s in score[label > 0.5] for t in score[label < 0.5]]
    return np.mean(pairs) if pairs else None


def test_auc_within_each_task():
    rows = made_rows()
    found = task_aucs(rows)
    expected = {}
    for name in ("adapted", "unadapted"):
        each = [
            slow_auc(rows["label"][rows["task"] == task], rows[name][rows["task"] == task])
            for task in np.unique(rows["task"])
        ]
        expected[name] = [value for value in each if value is not None]
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)
    assert 1 < found["tasks"] == len(expected["adapted"]) < 9
    pairs = list(zip(expected["adapted"], expected["unadapted"], strict=True))
    assert found["better"] == np.mean([a > u for a, u in pairs])
    assert found["worse"] == np.mean([a < u for a, u in pairs])
    assert found["better"] != found["worse"]


def test_a_task_that_stays_as_it_was_is_neither_better_nor_worse():
    rows = {
        "task": [1, 1, 2, 2, 3, 3, 4, 4],
        "label": [1, 0] * 4,
        "adapted": [0.9, 0.1, 0.1, 0.9, 0.9, 0.1, 0.9, 0.1],
        "unadapted": [0.1, 0.9, 0.9, 0.1, 0.9, 0.1, 0.5, 0.5],
    }
    found = task_aucs(rows)
    assert (found["better"], found["worse"], found["tasks"]) == (0.5, 0.25, 4)


def test_no_task_has_both_classes():
    rows = {name: values[:1] for name, values in made_rows().items()}
    nothing = {"adapted": [], "unadapted": [], "tasks": 0, "better": None, "worse": None}
    assert task_aucs(rows) == nothing
    assert task_aucs({name: values[:0] for name, values in rows.items()}) == nothing


def test_calibration_by_hand():
    rows = {
        "task": [0, 0, 0, 0],
        "label": [1, 0, 1, 0],
        "adapted": [0.1, 0.2, 0.9, 1.0],
        "unadapted": [0.5, 0.5, 0.5, 0.5],
    }
    found = calibration(rows, bins=2)
    np.testing.assert_allclose(found["adapted"]["predicted"], [0.15, 0.95])
    assert found["adapted"]["observed"] == [0.5, 0.5]
    assert found["adapted"]["rows"] == [2, 2]
    assert found["adapted"]["error"] == pytest.approx((0.35 + 0.45) / 2)
    assert found["unadapted"] == {
        "predicted": [0.5],
        "observed": [0.5],
        "rows": [4],
        "error": 0.0,
    }


def test_calibration_is_of_probabilities():
    rows = made_rows() | {"adapted": np.full(len(made_rows()["task"]), 3.5)}
    with pytest.raises(ValueError, match=r"expected probabilities, got 3\.5\. Train with"):
        calibration(rows)


def test_the_curve_has_the_metric_of_each_size():
    two = {0: made_rows(0), 5: made_rows(1)}
    found = size_curve(two, "mae")
    expected = [np.abs(rows["label"] - rows["adapted"]).mean() for rows in two.values()]
    assert (found["metric"], found["sizes"]) == ("mae", [0, 5])
    np.testing.assert_allclose(found["values"], expected)
