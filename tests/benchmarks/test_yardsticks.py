"""The yardsticks of `benchmarks.quality` are what they are called, on the rows of `evaluate`."""

import numpy as np
import pytest
from made_data import make_records

import gmeta_tf as gm
from benchmarks.yardsticks import (
    EvaluatedTask,
    Ratings,
    evaluated_tasks,
    folded_in_als,
    mean_and_offset,
    ratings_of,
)
from gmeta_tf.evaluation.baseline import RateAndOffset


def rated(rng, items, count):
    chosen = rng.integers(0, items, count)
    return Ratings(chosen, 3.0 + np.sin(chosen) + rng.normal(size=count))


@pytest.fixture(scope="module")
def training():
    rng = np.random.default_rng(0)
    return [rated(rng, 12, 9) for _ in range(30)]


@pytest.fixture(scope="module")
def tasks():
    rng = np.random.default_rng(1)
    return [EvaluatedTask(n, rated(rng, 12, 4), rated(rng, 14, 6)) for n in range(5)]


def test_mean_and_offset_is_the_baseline_of_evaluate_on_labels(training, tasks):
    keys, labels = (np.concatenate(parts) for parts in zip(*training))
    sums, counts = np.bincount(keys, labels, 12), np.bincount(keys, minlength=12)
    mean = labels.mean()
    rates = (sums + 5 * mean) / (counts + 5)
    baseline = RateAndOffset(np.arange(12), rates, mean)
    for task, scores in zip(tasks, mean_and_offset(training, tasks), strict=True):
        expected = baseline.scores(task.support.items, task.support.labels, task.query.items)
        np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_als_without_factors_is_biases(training, tasks):
    """An infinite penalty leaves the biases, which solve their own equations."""
    scores = folded_in_als(training, tasks, rank=2, factor_penalty=1e12, sweeps=60)
    mean = np.concatenate([one.labels for one in training]).mean()
    of_item, of_task = np.zeros(14), np.zeros(len(training))
    for _ in range(60):
        of_task = [
            (one.labels - mean - of_item[one.items]).sum() / (len(one.items) + 3)
            for one in training
        ]
        for item in range(14):
            left = [
                label - mean - of_task[number]
                for number, one in enumerate(training)
                for key, label in zip(*one)
                if key == item
            ]
            of_item[item] = sum(left) / (len(left) + 3)
    for task, found in zip(tasks, scores, strict=True):
        own = (task.support.labels - mean - of_item[task.support.items]).sum() / (4 + 3)
        np.testing.assert_allclose(found, mean + of_item[task.query.items] + own, rtol=1e-6)


def test_als_finds_factors():
    """Labels that are a product of factors, and of nothing else, are predicted by it."""
    rng = np.random.default_rng(2)
    items, users = rng.normal(size=(20, 2)), rng.normal(size=(120, 2))

    def of(user, rows):
        return Ratings(rows, items[rows] @ user)

    training = [of(user, rng.permutation(20)[:12]) for user in users[:100]]
    tasks = []
    for number, user in enumerate(users[100:]):
        drawn = rng.permutation(20)
        tasks.append(EvaluatedTask(number, of(user, drawn[:8]), of(user, drawn[8:])))
    settings = {"rank": 2, "factor_penalty": 0.1, "bias_penalty": 10.0, "sweeps": 40}
    found = np.concatenate(folded_in_als(training, tasks, **settings))
    labels = np.concatenate([task.query.labels for task in tasks])
    assert np.corrcoef(found, labels)[0, 1] > 0.95
    by_means = np.concatenate(mean_and_offset(training, tasks))
    assert np.corrcoef(by_means, labels)[0, 1] < 0.3


def test_tasks_are_those_that_evaluate_takes(tmp_path):
    records = make_records(tmp_path, tasks=9)
    batches = gm.TaskBatches(
        records, "test", tasks=2, support=3, query=5, every_query=True, shuffle=False
    )
    tasks = evaluated_tasks(batches, "item")
    (all_rows,) = [ratings_of(records, "test", "item")]
    by_number: dict[int, list[EvaluatedTask]] = {}
    for one in tasks:
        by_number.setdefault(one.task, []).append(one)
    evaluated = sorted(by_number)
    assert len(evaluated) >= 6
    for number in evaluated:
        parts = by_number[number]
        support = parts[0].support
        assert all(np.array_equal(one.support.items, support.items) for one in parts)
        rows = [support, *(one.query for one in parts)]
        found = sorted(zip(*(np.concatenate(values) for values in zip(*rows))))
        assert any(found == sorted(zip(*one)) for one in all_rows)
