"""Metrics against slow, obvious oracles; chunks and ranks against one update on one rank."""

import ast
import inspect
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmeta_tf.evaluation import metrics, ranking, rows
from gmeta_tf.evaluation.metric_accumulator import MetricAccumulator
from gmeta_tf.evaluation.metrics import PooledAuc, metric, score_bins

ALL_NAMES = [
    "auc", "task_auc", "log_loss", "accuracy", "mae", "rmse", "task_mae", "ndcg@1", "ndcg@3",
    "recall@1", "recall@3", "mrr",
]  # fmt: skip
OF_ROWS = ("auc", "log_loss", "accuracy", "mae", "rmse")
WEIGHTED = [f"weighted_{name}" for name in OF_ROWS]
SHORT_NAMES = [name for name in ALL_NAMES if name != "auc"]  # without the long histograms
quick = settings(deadline=None, max_examples=60, derandomize=True)

# Few levels, so that ties are common. All are exact in float32 and apart from each other in bins.
scores = st.integers(0, 6).map(lambda level: level / 8 + 0.125)
labels = st.integers(0, 2)
judged_rows = st.tuples(labels, scores, scores)
judged_tasks = st.lists(st.lists(judged_rows, min_size=1, max_size=6), min_size=1, max_size=6)


def columns_of(tasks, first_key=100):
    """Lists of (label, adapted, unadapted) per task -> the four columns; keys are not ascending."""
    keys = [first_key - 7 * index for index, rows in enumerate(tasks) for _ in rows]
    values = np.array([row for rows in tasks for row in rows], np.float32).reshape(-1, 3)
    return np.array(keys, np.int64), *values.T


def sums_of(names, *updates):
    judgements = MetricAccumulator(names)
    for columns in updates:
        judgements.update(*columns)
    return judgements.sums()


def slow_auc(label, prediction):
    positives = [p for y, p in zip(label, prediction) if y > 0.5]
    negatives = [p for y, p in zip(label, prediction) if y <= 0.5]
    won = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    return sum(won) / len(won) if won else math.nan


def slow_dcg(label, k):
    return sum((2**y - 1) / math.log2(1 + rank) for rank, y in enumerate(label[:k], start=1))


def descending_orders(label, prediction):
    """The labels in every order of the rows that descends in the prediction."""
    rows = list(zip(label, prediction))
    return [
        [y for y, _ in order]
        for order in itertools.permutations(rows)
        if list(order) == sorted(order, key=lambda row: -row[1])  # a stable sort
    ]


def slow_ndcg(label, prediction, k):
    orders = descending_orders(label, prediction)
    ideal = slow_dcg(sorted(label, reverse=True), k)
    return sum(slow_dcg(y, k) for y in orders) / len(orders) / ideal if ideal else math.nan


def slow_recall(label, prediction, k):
    orders = descending_orders(label, prediction)
    found = sum(sum(y > 0.5 for y in order[:k]) for order in orders) / len(orders)
    positives = sum(y > 0.5 for y in label)
    return found / positives if positives else math.nan


def slow_mrr(label, prediction):
    if max(label) <= 0.5:
        return math.nan
    orders = descending_orders(label, prediction)
    ranks = [1 + [y > 0.5 for y in order].index(True) for order in orders]
    return sum(1 / rank for rank in ranks) / len(ranks)


def mean_of_known(values):
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def slow_results(tasks):
    """Every metric of the adapted (row[1]) prediction, by the definitions."""
    rows = [row for task in tasks for row in task]
    errors = [abs(row[0] - row[1]) for row in rows]
    certainty = [row[1] if row[0] > 0.5 else 1 - row[1] for row in rows]
    split = [([row[0] for row in task], [row[1] for row in task]) for task in tasks]
    return {
        "auc": slow_auc([row[0] for row in rows], [row[1] for row in rows]),
        "task_auc": mean_of_known([slow_auc(*task) for task in split]),
        "log_loss": -sum(map(math.log, certainty)) / len(rows),
        "accuracy": sum((row[0] > 0.5) == (row[1] > 0.5) for row in rows) / len(rows),
        "mae": sum(errors) / len(rows),
        "rmse": math.sqrt(sum(error**2 for error in errors) / len(rows)),
        "task_mae": mean_of_known(
            [sum(abs(y - p) for y, p in zip(*task)) / len(task[0]) for task in split]
        ),
        "ndcg@1": mean_of_known([slow_ndcg(*task, k=1) for task in split]),
        "ndcg@3": mean_of_known([slow_ndcg(*task, k=3) for task in split]),
        "recall@1": mean_of_known([slow_recall(*task, k=1) for task in split]),
        "recall@3": mean_of_known([slow_recall(*task, k=3) for task in split]),
        "mrr": mean_of_known([slow_mrr(*task) for task in split]),
    }


# Each metric against its definition


@quick
@given(judged_tasks)
def test_every_metric_equals_its_definition(tasks):
    judgements = MetricAccumulator(ALL_NAMES)
    judgements.update(*columns_of(tasks))
    results = judgements.results(judgements.sums())

    swapped = [[(y, unadapted, adapted) for y, adapted, unadapted in task] for task in tasks]
    expected = {"tasks": len(tasks), "samples": sum(map(len, tasks))}
    for which, data in (("adapted", tasks), ("unadapted", swapped)):
        expected |= {f"{name}_{which}": value for name, value in slow_results(data).items()}
    assert results == pytest.approx(expected, rel=1e-6, nan_ok=True)


weighted_tasks = st.lists(
    st.lists(st.tuples(judged_rows, st.integers(0, 3)), min_size=1, max_size=6),
    min_size=1,
    max_size=6,
)


@quick
@given(weighted_tasks, st.integers(0, 40))
def test_a_weight_of_w_is_w_rows(tasks, cut):
    rows = [[row for row, _ in task] for task in tasks]
    weight = np.array([one for task in tasks for _, one in task], np.float32)
    columns = (*columns_of(rows), weight)
    repeats = weight.astype(int)
    repeated = tuple(np.repeat(column, repeats) for column in columns[:4])
    whole = MetricAccumulator(WEIGHTED)
    whole.update(*columns)
    in_two = MetricAccumulator([*WEIGHTED, "task_auc"])
    for part in (slice(cut), slice(cut, None)):
        in_two.update(*(column[part] for column in columns))
    expected = MetricAccumulator([*OF_ROWS, "task_auc"])
    expected.update(*repeated)
    found, told = in_two.results(in_two.sums()), expected.results(expected.sums())
    for name, side in itertools.product(OF_ROWS, ("adapted", "unadapted")):
        value = pytest.approx(told[f"{name}_{side}"], rel=1e-9, nan_ok=True)
        assert found[f"weighted_{name}_{side}"] == value
        prediction = columns[2 if side == "adapted" else 3]
        known = metric(f"weighted_{name}")
        assert known.value(*columns[:2], prediction, weight) == value
        assert whole.results(whole.sums())[f"weighted_{name}_{side}"] == value
    assert found["samples"] == len(weight)


def test_weights_do_not_matter_to_other_metrics():
    columns = columns_of([[(1, 0.25, 0.5), (0, 0.5, 0.5)], [(1, 0.75, 0.5)]])
    found = [sums_of(ALL_NAMES, given) for given in (columns, (*columns, [3.0, 0.0, 2.0]))]
    np.testing.assert_array_equal(*found)
    unweighted, weighted = sums_of(OF_ROWS, columns), sums_of(WEIGHTED, columns)
    np.testing.assert_allclose(weighted, unweighted)  # without weights each row weighs 1


def test_of_the_kept_rows_the_last_column_is_the_weight():
    kept = MetricAccumulator(["weighted_mae"])
    kept.keeps_rows = True
    assert kept.kept_rows()[1].shape == (0, 4)
    kept.update([7, 7], [0, 1], [0.5, 0.25], [0.5, 0.5], [2.0, 0.5])
    assert kept.kept_rows()[1][:, 3].tolist() == [2.0, 0.5]
    with pytest.raises(ValueError, match="weight: expected finite values"):
        kept.update([8], [0], [0.5], [0.5], [math.nan])


def test_the_direction_and_the_labels_are_those_of_the_metric():
    for name in OF_ROWS:
        plain, weighted = metric(name), metric(f"weighted_{name}")
        for fact in ("is_better_when_larger", "is_of_clicks", "is_of_probabilities"):
            assert getattr(plain, fact) == getattr(weighted, fact)
        assert (plain.is_weighted, weighted.is_weighted) == (False, True)


def test_ndcg_by_hand():
    # The order is labels 1, 3, 0: (1 + 7 / log2(3)) / (7 + 1 / log2(3)).
    value = metric("ndcg@3").value([5, 5, 5], [3, 1, 0], [0.6, 0.7, 0.1])
    assert value == pytest.approx((1 + 7 / math.log2(3)) / (7 + 1 / math.log2(3)))
    assert metric("ndcg@1").value([5, 5, 5], [3, 1, 0], [0.6, 0.7, 0.1]) == pytest.approx(1 / 7)


@quick
@given(st.permutations([5, 4, 4, 1, 2]))
def test_constant_predictor_has_one_ndcg_for_every_order_of_rows(label):
    mean_gain = (31 + 15 + 15 + 1 + 3) / 5
    assert metric("ndcg@1").value([1] * 5, label, [0.5] * 5) == pytest.approx(mean_gain / 31)


def test_task_metrics_leave_out_tasks_that_cannot_be_judged():
    task, label, prediction = [1, 1, 2, 2, 3], [0, 0, 0, 1, 1], [0.1, 0.2, 0.8, 0.3, 0.9]
    assert metric("task_auc").value(task, label, prediction) == 0  # task 2 alone has both classes
    assert metric("ndcg@1").value(task, label, prediction) == 0.5  # tasks 2 and 3 have a gain


@pytest.mark.parametrize("label", [[0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("name", ["auc", "task_auc"])
def test_auc_of_one_class_is_nan(name, label):
    assert math.isnan(metric(name).value([1, 1, 1], label, [0.1, 0.5, 0.9]))


def test_log_loss_of_certain_mistakes_is_clipped():
    value = metric("log_loss").value([1, 1], [0, 1], [1.0, 0.0])
    assert value == pytest.approx(-math.log(1e-7), rel=1e-6)


def test_label_is_positive_above_one_half():
    assert metric("auc").value([1, 1], [0.5, 0.75], [0.2, 0.6]) == 1
    assert metric("accuracy").value([1, 1], [0.5, 0.75], [0.5, 0.75]) == 1


# The histogram of the pooled AUC


def test_score_bins_never_descend_and_stay_inside():
    tails = np.logspace(-12, 38, 3000)
    ascending = np.sort(np.concatenate([-tails, [0.0], tails, 1 - tails[:1500]]))
    bins = score_bins(ascending)
    assert (np.diff(bins) >= 0).all()
    assert bins[0] == 0
    assert bins[-1] == 2**17 - 1


@quick
@given(st.floats(-15, 15), st.floats(0.001, 1))
def test_probabilities_a_thousandth_of_a_logit_apart_have_their_own_bins(logit, step):
    low, high = 1 / (1 + np.exp(-np.array([logit, logit + step])))
    assert score_bins(np.array([low]))[0] < score_bins(np.array([high]))[0]


@pytest.mark.parametrize(
    "transform",
    [
        lambda logit: 1 / (1 + np.exp(-logit)),
        lambda logit: (1 / (1 + np.exp(-logit - 9))).astype(np.float32),
        lambda logit: logit,
        lambda logit: 3.5 + logit,
        lambda logit: 1000 * logit,
    ],
    ids=["probabilities", "near one, float32", "logits", "ratings", "large scores"],
)
def test_pooled_auc_of_dense_scores_is_within_its_bound(transform):
    rng = np.random.default_rng(3)
    label = (rng.random(100_000) < 0.2).astype(np.float32)
    prediction = transform(rng.normal(size=label.size) + 0.8 * label)
    task = np.zeros(label.size, np.int64)
    exact = metric("task_auc").value(task, label, prediction)  # one task: the exact pooled AUC
    pooled = PooledAuc()
    sums = np.zeros(pooled.num_sums)
    pooled.add(sums, metrics.Rows(np.array([0]), label, np.asarray(prediction, np.float64)))

    assert 0.70 < exact < 0.73
    error = abs(pooled.result(sums) - exact)
    assert error <= pooled.error_bound(sums) < 1e-3
    assert error < 5e-6


def test_error_bound_counts_the_pairs_that_share_a_bin():
    pooled = PooledAuc()
    sums = np.zeros(pooled.num_sums)
    assert math.isnan(pooled.error_bound(sums))
    rows = metrics.Rows(np.array([0]), np.array([0.0, 0, 1, 1]), np.array([0.3, 0.4, 0.4, 0.9]))
    pooled.add(sums, rows)
    assert pooled.error_bound(sums) == 1 / 4 / 2  # one of four pairs


# Chunks and ranks


@quick
@given(judged_tasks, st.lists(st.integers(0, 36), max_size=6))
def test_chunks_equal_one_update(tasks, cuts):
    columns = columns_of(tasks)
    cuts = sorted(min(cut, columns[0].size) for cut in cuts)
    chunks = zip(*(np.split(column, cuts) for column in columns))  # empty ones too
    whole = sums_of(SHORT_NAMES, columns)
    np.testing.assert_allclose(sums_of(SHORT_NAMES, *chunks), whole, rtol=1e-12)


@quick
@given(judged_tasks, judged_tasks, st.booleans())
def test_added_ranks_equal_one_rank(first, second, with_empty_rank):
    first, second = columns_of(first), columns_of(second, first_key=1003)
    added = sums_of(SHORT_NAMES, first) + sums_of(SHORT_NAMES, second)
    if with_empty_rank:
        added += sums_of(SHORT_NAMES)
    np.testing.assert_allclose(added, sums_of(SHORT_NAMES, first, second), rtol=1e-12)


def test_three_ranks_with_every_metric_equal_one_rank():
    rng = np.random.default_rng(5)
    task = np.repeat(np.arange(40), rng.integers(1, 30, 40))
    label, adapted, unadapted = rng.integers(0, 2, task.size), *rng.random((2, task.size))
    parts = [np.flatnonzero(task % 2 == rank) for rank in range(2)] + [np.array([], np.int64)]
    ranks = [
        sums_of(ALL_NAMES, *([c[half] for c in (task, label, adapted, unadapted)]
                             for half in np.array_split(part, 3)))
        for part in parts
    ]  # fmt: skip
    judgements = MetricAccumulator(ALL_NAMES)
    judgements.update(task, label, adapted, unadapted)
    results = judgements.results(judgements.sums())
    assert judgements.results(sum(ranks)) == pytest.approx(results, rel=1e-12)
    assert results["tasks"] == 40
    assert results["samples"] == task.size
    assert results["auc_adapted"] != results["auc_unadapted"]


def test_sums_leave_the_open_task_open():
    judgements = MetricAccumulator(["task_auc"])
    judgements.update([4, 4], [0, 1], [0.1, 0.9], [0.1, 0.9])
    assert judgements.sums().tolist() == [1, 2, 1, 1, 1, 1]
    assert judgements.sums().tolist() == [1, 2, 1, 1, 1, 1]
    judgements.update([4], [0], [0.95], [0.5])
    assert judgements.sums().tolist() == [1, 3, 0.5, 1, 1, 1]


def test_update_keeps_no_view_of_the_callers_rows():
    prediction = np.array([0.1, 0.9])
    judgements = MetricAccumulator(["task_auc"])
    judgements.update([4, 4], [0, 1], prediction, prediction)
    prediction[:] = [0.9, 0.1]
    assert judgements.results(judgements.sums())["task_auc_adapted"] == 1


@pytest.mark.parametrize(("names", "num_kept"), [(["mae", "auc"], 0), (["mae", "task_auc"], 50)])
def test_only_the_open_task_is_kept_and_only_for_task_metrics(names, num_kept):
    judgements = MetricAccumulator(names)
    for task in range(4):
        for _ in range(5):
            judgements.update([task] * 10, [0, 1] * 5, [0.5] * 10, [0.5] * 10)
    assert sum(chunk.shape[1] for chunk in judgements._open_chunks) == num_kept
    assert all(chunk.base is None for chunk in judgements._open_chunks)  # no view of a batch
    assert judgements.sums()[:2].tolist() == [4, 200]


def test_rank_without_rows_adds_zeros_and_has_results():
    judgements = MetricAccumulator(ALL_NAMES)
    judgements.update([], [], [], [])
    sums = judgements.sums()
    assert sums.dtype == np.float64
    assert not sums.any()
    results = judgements.results(sums)
    assert (results.pop("tasks"), results.pop("samples")) == (0, 0)
    assert len(results) == 2 * len(ALL_NAMES)
    assert all(math.isnan(value) for value in results.values())
    assert math.isnan(metric("mae").value([], [], []))


def test_reset_forgets_rows_and_the_open_task():
    judgements = MetricAccumulator(["mae", "ndcg@1"])
    judgements.update([1, 2], [0, 1], [0.5, 0.5], [0.5, 0.5])
    judgements.reset()
    assert not judgements.sums().any()
    judgements.update([2], [1], [0.75], [0.5])
    assert judgements.sums().tolist() == [1, 1, 0.25, 1, 0.5, 1, 1, 1, 1, 1]


def test_no_metrics_still_counts():
    assert sums_of([], ([3, 3, 8], [0, 1, 1], [0.5] * 3, [0.5] * 3)).tolist() == [2, 3]


# Errors


@pytest.mark.parametrize("name", ["gini", "ndcg", "ndcg@0", "AUC", "ndcg@3\n", "weighted_mrr"])
def test_unknown_name_lists_the_known_ones(name):
    known = "auc, task_auc, log_loss, accuracy, mae, rmse, task_mae, mrr, ndcg@k or recall@k"
    with pytest.raises(ValueError, match=f"expected one of {known}.*received .*correct the name"):
        metric(name)


def test_known_names_come_back():
    assert [metric(name).name for name in ALL_NAMES + WEIGHTED] == ALL_NAMES + WEIGHTED


def test_repeated_name():
    with pytest.raises(ValueError, match=r"expected each metric once, received \['mae', 'mae'\]"):
        MetricAccumulator(["mae", "mae"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("position", "column"), [(1, "label"), (2, "adapted"), (3, "unadapted")])
def test_value_that_is_not_finite(position, column, value):
    columns = [[6, 6, 9, 9], [0, 1, 0, 1], [0.5] * 4, [0.5] * 4]
    columns[position] = [0.5, 0.5, value, value]
    judgements = MetricAccumulator(["mae"])
    with pytest.raises(ValueError, match=f"{column}: .*received 2 NaN .* of 4, .* in task 9;"):
        judgements.update(*columns)
    assert not judgements.sums().any()


@pytest.mark.parametrize("shape", [(2,), (3, 1), ()])
def test_shapes_that_differ(shape):
    message = r"expected one shape \[n\], received task \(3,\), .* adapted .*; flatten"
    with pytest.raises(ValueError, match=message):
        MetricAccumulator(["mae"]).update([1, 1, 1], [0, 1, 1], np.full(shape, 0.5), [0.5] * 3)


def test_columns_with_two_dimensions():
    square = np.zeros((2, 2), np.int64)
    with pytest.raises(ValueError, match=r"received task \(2, 2\), label \(2, 2\)"):
        metric("mae").value(square, square, square)


def test_task_keys_that_are_not_integers():
    with pytest.raises(ValueError, match="task: expected integers, received float64"):
        metric("mae").value([1.0, 2.0], [0, 1], [0.5, 0.5])


@pytest.mark.parametrize("updates", [[[8, 3, 8]], [[3, 8], [3, 8]], [[8], [3, 8]]])
def test_task_whose_rows_are_apart(updates):
    judgements = MetricAccumulator(["mae", "task_mae"])
    *before, last = (
        [task, [1] * len(task), [0.5] * len(task), [0.5] * len(task)] for task in updates
    )
    for columns in before:
        judgements.update(*columns)
    with pytest.raises(
        ValueError, match=r"task [38]: expected its rows side by side.*sort the rows"
    ):
        judgements.update(*last)


def test_log_loss_of_scores_that_are_no_probabilities():
    with pytest.raises(
        ValueError, match=r"log_loss: expected .* received 2 of 3 outside, .* 1\.5;"
    ):
        metric("log_loss").value([1, 1, 1], [0, 1, 1], [0.5, 1.5, -2.0])
    assert metric("log_loss").value([1], [1], [1 + 1e-7]) == pytest.approx(1e-7)


@pytest.mark.parametrize("label", [[-1, 1], [1, 600]])
def test_ndcg_of_labels_that_are_no_relevance(label):
    with pytest.raises(ValueError, match=r"ndcg: expected labels in \[0, 512\], received"):
        metric("ndcg@3").value([1, 1], label, [0.5, 0.5])


def test_sums_of_other_metrics():
    with pytest.raises(ValueError, match=r"sums: expected shape \(6,\), received \(10,\)"):
        MetricAccumulator(["mae"]).results(MetricAccumulator(["mae", "rmse"]).sums())


# The module


def test_the_modules_need_only_numpy():
    standard = {"__future__", "abc", "re", "collections.abc", "dataclasses", "functools"}
    for module in (metrics, ranking, rows):
        tree = ast.parse(inspect.getsource(module))
        found = [one for one in ast.walk(tree) if isinstance(one, (ast.Import, ast.ImportFrom))]
        names = {getattr(node, "module", None) or node.names[0].name for node in found}
        own = {"gmeta_tf.evaluation.ranking", "gmeta_tf.evaluation.rows"}
        assert names - standard - own <= {"numpy", "numpy.typing"}
