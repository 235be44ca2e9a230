"""The yardstick against a plain Python twin."""

import dataclasses
import json

import numpy as np
import pytest
from made_data import made_rows, made_words, make_records, sizes_of

import gmeta_tf as gm
from gmeta_tf.evaluation.baseline import RateAndOffset, baseline_auc, best_baseline
from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.meta_io.records.writer import EpisodeWriter


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
    fitted = RateAndOffset.fit(records, "train", ["item"], smoothing=2.0)["item"]
    every = np.arange(records.schema.table("item").num_rows)
    np.testing.assert_allclose(fitted.rates_of(every), rates_of(records, 2.0))
    assert np.ptp(fitted.rates) > 0.1
    np.testing.assert_allclose(fitted.rates_of(np.array([-5, 10**15])), fitted.mean)


def test_scores_add_the_offset_of_the_support():
    rates = np.array([0.5, 0.2, 0.9])
    baseline = RateAndOffset(np.arange(3), rates, mean=0.5, smoothing=1.0)
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
        RateAndOffset.fit(records, "train", ["genre"])


def same_rows_with(folder, schema, keys_of):
    """Records like `records` whose items have other keys, by task `[n] -> [n]`."""
    rng = np.random.default_rng(3)
    contents, number = {}, 0
    for split in ("train", "test"):
        writer = EpisodeWriter(folder, split, schema, num_files=2)
        for num_rows in sizes_of(30, rng):
            label, keys, price = made_rows(number, num_rows, rng)
            keys = np.concatenate([keys_of(keys[:1]), keys[1:4], keys_of(keys[4:])])
            writer.write(np.full(num_rows, number), made_words((label, keys, price), schema))
            number += 1
        contents[split] = writer.close()
    return gm.Records(str(folder), schema, contents)


def evaluated(records, **options):
    options = {"tasks": 4, "support": 3, "query": 5, "seed": 7, **options}
    return gm.TaskBatches(records, "test", every_query=True, shuffle=False, **options)


@pytest.mark.parametrize("kind", ["raw", "hash"])
def test_keys_without_a_limit_count_as_well(records, tmp_path, kind):
    """Of two words, some negative: the same items by other names have the same AUC."""
    tables = (gm.Table("item", keys=kind), gm.Table("genre", 7))
    schema = dataclasses.replace(records.schema, tables=tables)

    def keys_of(item):
        """Raw ones differ in their high words alone, negative hashes in their low ones."""
        wide = item.astype(np.int64)
        wide = (wide << 32) + 5 if kind == "raw" else wide - 2**40
        return np.where(item < 0, item, wide)

    others = same_rows_with(tmp_path, schema, keys_of)
    found = best_baseline(evaluated(others), "train", ["item"], ["auc"])
    expected = best_baseline(evaluated(records), "train", ["item"], ["auc"])
    assert found == expected
    assert 0.3 < expected.values["auc"] < 0.99


def test_the_best_field_is_reported_and_named(tmp_path):
    """By the first metric: `cell` is the same everywhere, and `item` says what labels depend on."""
    fields = (gm.Field("cell"), gm.Field("item"))
    schema = gm.Schema(fields, "rating", "user").with_num_rows({"cell": 2, "item": 17})
    rng = np.random.default_rng(0)
    contents = {}
    for split in ("train", "test"):
        writer = EpisodeWriter(tmp_path, split, schema, num_files=1)
        for task in range(20):
            item = rng.integers(0, 17, 12)
            label = item % 5 + 1 + 0.1 * rng.normal(size=12)
            words = np.stack([label.astype("<f4").view("<i4"), np.ones(12, "<i4"), item])
            writer.write(np.full(12, task), words)
        contents[split] = writer.close()
    records = gm.Records(str(tmp_path), schema, contents)
    best = best_baseline(evaluated(records), "train", ["cell", "item"], ["rmse", "task_mae"])
    worse = best_baseline(evaluated(records), "train", ["cell"], ["rmse", "task_mae"])
    assert (best.field, worse.field) == ("item", "cell")
    assert best.values["rmse"] < 0.7 < 1.2 < worse.values["rmse"]
    assert list(best.values) == ["rmse", "task_mae"]
    # Without any field: all rows are of one item, as those of `cell` are.
    none = best_baseline(evaluated(records), "train", [], ["rmse", "task_mae"])
    assert none.field is None
    assert none.values == worse.values


def test_rates_and_offsets_beyond_1_have_a_log_loss(records):
    found = best_baseline(evaluated(records), "train", ["item"], ["auc", "log_loss"])
    assert found.values["auc"] == baseline_auc(evaluated(records), "train", "item")
    assert 0.1 < found.values["log_loss"] < 1.5
    assert [metric(name).is_better_when_larger for name in found.values] == [True, False]


def test_a_weighted_metric_of_the_baseline(records, tmp_path):
    """The scores are those without weights; their errors count by the query rows' weights."""
    schema = dataclasses.replace(records.schema, weight="importance")
    contents = {}
    for split in records.splits:
        writer = EpisodeWriter(tmp_path, split, schema, num_files=1)
        for task, words in sorted(records.read(split), key=lambda one: one[0]):
            weight = 1 + np.arange(words.shape[1], dtype="<f4") % 3
            writer.write(
                np.full(words.shape[1], task), np.insert(words, 1, weight.view("<i4"), axis=0)
            )
        contents[split] = writer.close()
    weighted = gm.Records(str(tmp_path), schema, contents)
    (tmp_path / "schema.json").write_text(json.dumps(weighted.describe()))
    batches = evaluated(gm.Records.open(tmp_path))
    names = ["auc", "mae", "weighted_mae", "weighted_log_loss"]
    found = best_baseline(batches, "train", ["item"], names).values
    plain = best_baseline(evaluated(records), "train", ["item"], names[:2]).values
    assert {name: found[name] for name in names[:2]} == pytest.approx(plain)
    errors, weights = [], []
    fitted = RateAndOffset.fit(batches.records, "train", ["item"])["item"]
    for step in batches.picked().take(batches.steps_per_epoch).as_numpy_iterator():
        for words, num_support, num_query in zip(
            step["words"], step["num_support"], step["num_query"], strict=True
        ):
            support, query = words[:num_support], words[batches.support :][:num_query]
            clicks = [(part[:, 0].view(np.float32) >= 4) * 1.0 for part in (support, query)]
            scores = fitted.scores(support[:, 2], clicks[0], query[:, 2])
            errors.extend(np.abs(scores - clicks[1]))
            weights.extend(query[:, 1].view(np.float32))
    assert found["weighted_mae"] == pytest.approx(np.average(errors, weights=weights), rel=1e-5)
    assert found["weighted_mae"] != pytest.approx(found["mae"], rel=1e-4)
    assert 0.1 < found["weighted_log_loss"] < 1.5
