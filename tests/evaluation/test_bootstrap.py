"""Intervals by drawing tasks again, against a loop that copies the rows of each drawn task."""

import dataclasses

import numpy as np
import pytest

from gmeta_tf.evaluation.bootstrap import bootstrap_intervals, task_counts
from gmeta_tf.evaluation.evaluated_rows import EvaluatedRows
from gmeta_tf.evaluation.metrics import metric

NAMES = (
    *("auc", "task_auc", "log_loss", "mae", "rmse", "task_mae", "ndcg@2", "recall@2", "mrr"),
    *("weighted_auc", "weighted_log_loss", "weighted_rmse"),
)


def made_rows(seed, num_tasks=9):
    """Tasks of 1 to 7 rows with ties; one whose labels are all 0."""
    draw = np.random.default_rng(seed)
    sizes = np.random.default_rng(1).integers(1, 8, num_tasks)
    task = np.repeat(np.arange(num_tasks) * 5 - 3, sizes)
    label = (draw.random(len(task)) < 0.5) * 1.0
    label[task == 2] = 0.0
    predictions = draw.choice(np.linspace(0.05, 0.95, 12), (2, len(task)))
    return EvaluatedRows(task, label, *predictions, draw.uniform(0, 3, len(task)))


def of_copied_tasks(rows, name, side, counts):
    """The metric of rows in which each task is copied as often as it was drawn."""
    task, label, prediction, weight = [], [], [], []
    number = 0
    for one, times in zip(np.unique(rows.task), counts, strict=True):
        for _ in range(int(times)):
            own = rows.task == one
            task += [number] * own.sum()
            label += rows.label[own].tolist()
            prediction += getattr(rows, side)[own].tolist()
            weight += rows.weight[own].tolist()
            number += 1
    return metric(name).value(task, label, prediction, weight)


@pytest.mark.parametrize("name", NAMES)
def test_intervals_are_those_of_copied_tasks_averaged_over_draws(name):
    draws = [made_rows(3), made_rows(4)]
    found = bootstrap_intervals(draws, [metric(name)], num_samples=40, seed=7)
    counts = task_counts(9, 40, seed=7)
    slow = {
        side: np.array(
            [np.mean([of_copied_tasks(r, name, side, own) for r in draws]) for own in counts]
        )
        for side in ("adapted", "unadapted")
    }
    assert np.nanstd(slow["adapted"]) > 0
    slow["adapted_less_unadapted"] = slow["adapted"] - slow["unadapted"]
    assert set(found) == {f"{name}_{side}" for side in slow}
    for side, values in slow.items():
        expected = np.nanpercentile(values, [2.5, 97.5])
        np.testing.assert_allclose(found[f"{name}_{side}"], expected, rtol=1e-9)


def test_samples_are_of_as_many_tasks_and_a_seed_decides_them():
    counts = task_counts(9, 50, seed=1)
    np.testing.assert_array_equal(counts.sum(axis=1), 9)
    assert counts.max() > 1
    np.testing.assert_array_equal(counts, task_counts(9, 50, seed=1))
    assert (counts != task_counts(9, 50, seed=2)).any()


def test_a_difference_is_paired():
    """Where the adapted prediction is a little better in each task, the tasks' spread is gone."""
    task = np.repeat(np.arange(30), 2)
    spread = np.repeat(np.random.default_rng(0).random(30) * 4, 2)
    rows = EvaluatedRows(task, np.zeros(60), spread, spread + 0.25)
    found = bootstrap_intervals([rows], [metric("mae")], num_samples=200, seed=0)
    np.testing.assert_allclose(found["mae_adapted_less_unadapted"], [-0.25, -0.25])
    low, high = found["mae_adapted"]
    assert high - low > 0.3


def test_a_metric_without_a_value_has_no_interval():
    rows = EvaluatedRows(np.array([1, 2]), np.ones(2), np.full(2, 0.5), np.full(2, 0.5))
    found = bootstrap_intervals([rows], [metric("auc")], num_samples=3, seed=0)
    assert np.isnan(found["auc_adapted"]).all()


def test_draws_of_other_tasks_are_told():
    none = made_rows(0).take(np.zeros(len(made_rows(0)), bool))
    for draws in ([made_rows(0), made_rows(0, num_tasks=8)], [none]):
        with pytest.raises(ValueError, match=r"draws of the same tasks, at least one, got"):
            bootstrap_intervals(draws, [metric("auc")], num_samples=3, seed=0)


def test_rows_come_in_the_order_of_tasks_and_of_a_task_in_their_own():
    task = np.array([7, 7, 3, 9, 3])
    columns = np.arange(15.0).reshape(5, 3)
    rows, order = EvaluatedRows.sorted(columns, task)
    assert order.tolist() == [2, 4, 0, 1, 3]
    assert rows.task.tolist() == [3, 3, 7, 7, 9]
    assert rows.label.tolist() == [6.0, 12.0, 0.0, 3.0, 9.0]
    assert rows.unadapted.tolist() == [8.0, 14.0, 2.0, 5.0, 11.0]
    assert rows.num_tasks == 3


def test_weights_stay_with_their_rows():
    rows = made_rows(3)
    order = np.random.default_rng(0).permutation(len(rows))
    columns = np.stack([rows.label, rows.adapted, rows.unadapted, rows.weight], axis=1)
    found, _ = EvaluatedRows.sorted(columns[order], rows.task[order])
    weighted = metric("weighted_mae")
    assert found.value(weighted, "adapted") == pytest.approx(rows.value(weighted, "adapted"))
    assert found.value(weighted, "adapted") != found.value(metric("mae"), "adapted")
    part = rows.take(rows.label > 0.5)
    error = np.abs(part.adapted - part.label)
    expected = np.average(error, weights=rows.weight[rows.label > 0.5])
    assert part.value(weighted, "adapted") == pytest.approx(expected)
    without = dataclasses.replace(rows, weight=None).take(rows.label > 0.5)
    assert without.value(weighted, "adapted") == pytest.approx(error.mean())
