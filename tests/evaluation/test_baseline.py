"""The yardstick against a plain Python twin."""

import numpy as np
import pytest
from made_data import make_records

import gmeta_tf as gm
from gmeta_tf.evaluation.baseline import RateAndOffset, baseline_auc


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("records"), tasks=30, seed=3)


def rates_of(records, smoothing):
    labels_of = {}
    for _, words in records.read("train"):
        for key, label in zip(words[1], words[0].view(np.float32), strict=True):
            labels_of.setdefault(int(key), []).append(float(label >= 4.0))
    every = [label for labels in labels_of.values() for label in labels]
    mean = sum(every) / len(every)
    rates = np.full(records.schema.table("item").num_rows, mean)
    for key, labels in labels_of.items():
        rates[key] = (sum(labels) + smoothing * mean) / (len(labels) + smoothing)
    return rates


def auc_by_pairs(labels, scores):
    positive, negative = scores[labels > 0.5], scores[labels <= 0.5]
    wins = positive[:, np.newaxis] - negative
    return ((wins > 0) + 0.5 * (wins == 0)).mean()


def test_rates_are_smoothed_means(records):
    fitted = RateAndOffset.fit(records, "train", "item", smoothing=2.0)
    np.testing.assert_allclose(fitted.rates, rates_of(records, 2.0))
    assert np.ptp(fitted.rates) > 0.1


def test_scores_add_the_offset_of_the_support():
    baseline = RateAndOffset(np.array([0.5, 0.2, 0.9]), smoothing=1.0)
    scores = baseline.scores(np.array([1, 2]), np.array([1.0, 1.0]), np.array([0, 2]))
    np.testing.assert_allclose(scores, [0.5 + 0.3, 0.9 + 0.3])
    none = np.array([], int)
    np.testing.assert_allclose(baseline.scores(none, none * 0.0, np.array([1])), [0.2])


def test_auc_is_of_the_rows_that_evaluate_judges(records):
    batches = gm.TaskBatches(
        records, "test", tasks=4, support=3, query=5, every_query=True, shuffle=False, seed=7
    )
    rates = rates_of(records, 5.0)
    labels, scores = [], []
    steps = batches.steps_per_epoch
    for batch in batches.dataset().take(steps).as_numpy_iterator():
        # Position 0 of a row's slots is its item, the first table of the group.
        keys = np.append(-1, batch["keys"]["embedded"])[batch["pair_to_key"]["embedded"]]
        part = {
            name: (keys[batch[name]["pairs"]["embedded"][..., 0]], batch[name])
            for name in ("support", "query")
        }
        for task in range(4):
            (support_keys, support), (query_keys, query) = part["support"], part["query"]
            there, judged = support["weight"][task] > 0, query["weight"][task] > 0
            residuals = support["label"][task][there] - rates[support_keys[task][there]]
            offset = residuals.sum() / (there.sum() + 5.0)
            labels.extend(query["label"][task][judged])
            scores.extend(rates[query_keys[task][judged]] + offset)
    expected = auc_by_pairs(np.array(labels), np.array(scores))
    assert baseline_auc(batches, "train", "item") == pytest.approx(expected, abs=1e-3)
    assert 0.3 < expected < 0.99


def test_an_item_field_that_is_not_there(records):
    with pytest.raises(ValueError, match="none named 'genre'; fields are item"):
        RateAndOffset.fit(records, "train", "genre")
