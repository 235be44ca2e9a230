"""Labels and tasks that do not suit a loss or a metric are told before the first step."""

import dataclasses

import numpy as np
import pytest
from made_data import SCHEMA, made_rows, made_words, make_records

import gmeta_tf as gm
from gmeta_tf.meta import data_checks
from gmeta_tf.meta.data_checks import check_labels, check_whole_tasks
from gmeta_tf.meta.losses import row_loss
from gmeta_tf.meta_io.records.writer import EpisodeWriter

CLICKS, NUMBERS = row_loss("bce"), row_loss("mse")
RATINGS = dataclasses.replace(SCHEMA, positive_from=None)


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """Labels of 1 to 5; tasks of up to 30 rows in episodes of 8."""
    folder = tmp_path_factory.mktemp("ratings")
    return make_records(folder, 12, schema=RATINGS, splits=("train",), episode_rows=8)


def batches_of(records, **options):
    return gm.TaskBatches(records, "train", tasks=2, **options)


def with_labels(folder, labels):
    """Records of one task with these labels."""
    writer = EpisodeWriter(folder, "train", RATINGS, num_files=1)
    _, keys, price = made_rows(0, len(labels), np.random.default_rng(0))
    writer.write(np.zeros(len(labels), int), made_words((labels, keys, price), RATINGS))
    return gm.Records(str(folder), RATINGS, {"train": writer.close()})


def test_ratings_in_log_loss(ratings):
    with pytest.raises(
        ValueError,
        match=r"binary_crossentropy: expected labels from 0 to 1, got labels from 1 to 5 in the "
        r"split 'train' of .*State positive_from in the schema",
    ):
        check_labels(batches_of(ratings), CLICKS, CLICKS.metrics)


def test_ratings_in_metrics_of_clicks(ratings):
    check_labels(batches_of(ratings), NUMBERS, ["rmse", "ndcg@3", "task_mae"])
    with pytest.raises(ValueError, match=r"such as rmse and mae, got auc, accuracy, which need"):
        check_labels(batches_of(ratings), NUMBERS, ["rmse", "auc", "accuracy"])


def test_clicks_suit_everything(ratings, tmp_path):
    clicks = dataclasses.replace(ratings, schema=SCHEMA)  # positive_from makes them 0 and 1
    soft = with_labels(tmp_path, [0.0, 1.0, 0.25])
    for records in (clicks, soft):
        batches = gm.TaskBatches(records, "train", tasks=1)
        check_labels(batches, CLICKS, CLICKS.metrics)
        check_labels(batches, NUMBERS, ["auc", "rmse"])


def test_errors_of_ratings_beside_clicks(ratings):
    clicks = dataclasses.replace(ratings, schema=SCHEMA)
    loss = row_loss("ratings")
    check_labels(batches_of(clicks), loss, loss.metrics)
    check_labels(batches_of(ratings), loss, ["rmse", "mae"])
    with pytest.raises(ValueError, match=r"the loss ratings over a schema .*, got rmse, mae: pred"):
        check_labels(batches_of(clicks), loss, ["auc", "rmse", "mae"])


@pytest.mark.parametrize("wrong", [-1.0, 1.5, np.nan])
def test_one_label_is_enough(tmp_path, wrong):
    records = with_labels(tmp_path, [0.0, 1.0, wrong, 1.0])
    with pytest.raises(ValueError, match="expected labels from 0 to 1"):
        check_labels(gm.TaskBatches(records, "train", tasks=1), CLICKS, ())


def test_only_first_rows_are_read(ratings, monkeypatch):
    monkeypatch.setattr(data_checks, "_ROWS_READ", 9)
    assert 9 <= len(data_checks._first_labels(batches_of(ratings))) < 9 + 8


def test_episodes_are_no_tasks(ratings):
    check_whole_tasks(batches_of(ratings, every_query=True))
    with pytest.raises(ValueError, match=r"every_query=True, since tasks of the split 'train'"):
        check_whole_tasks(batches_of(ratings))
