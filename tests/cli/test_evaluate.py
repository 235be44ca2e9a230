"""`gmeta-tf evaluate`: which field its baseline counts, and its table."""

import dataclasses
import types

import pytest
from made_log import SCHEMA

import gmeta_tf as gm
from gmeta_tf.cli.evaluate import _baseline_items, describe_evaluation, undefined_metrics
from gmeta_tf.cli.options import EvaluateOptions

SIZED = SCHEMA.with_num_rows({"item": 9, "genre": 5})


def items_of(schema, **options):
    records = types.SimpleNamespace(schema=schema, splits=("train", "test"))
    return _baseline_items(EvaluateOptions(run="r", **options), records)


def test_the_baseline_tries_every_categorical_field():
    """Keys without a limit too; several values a row are no item."""
    assert items_of(SIZED) == ["item", "liked"]
    assert items_of(SIZED, item=["liked"]) == ["liked"]
    grows = dataclasses.replace(SIZED, tables=(gm.Table("item", keys="raw"),))
    assert items_of(grows) == ["item", "liked"]
    assert items_of(gm.Schema((gm.Field("genre", "multi"),), "stars", "user")) == []


@pytest.mark.parametrize("item", ["price", "genre", "nowhere"])
def test_a_field_that_is_no_item(item):
    with pytest.raises(ValueError, match=rf"\(item, liked\), got '{item}'"):
        items_of(SIZED, item=["item", item])


def test_a_split_to_count_on_that_is_not_there():
    with pytest.raises(ValueError, match="--train-split to be one of train, test, got 'all'"):
        items_of(SIZED, train_split="all")


def test_the_table_has_each_metric_once():
    report = {
        "auc_adapted": 0.75,
        "auc_unadapted": 0.5,
        "auc_baseline": 0.625,
        "ndcg@5_adapted": 0.25,
        "ndcg@5_unadapted": 0.125,
        "ndcg@5_baseline": None,
        "tasks": 1234,
        "samples": 5678,
        "split": "test",
        "support": 10,
    }
    assert describe_evaluation(report).splitlines() == [
        "                 adapted  unadapted  baseline",
        "auc               0.7500     0.5000    0.6250",
        "ndcg@5            0.2500     0.1250",
        "1,234 tasks of the split 'test', 5,678 query rows, 10 support rows each, drawn at random",
    ]
    more = {"auc_baseline": None, "auc_adapted": float("nan"), "in_time_order": True}
    lines = describe_evaluation(report | more | {"baseline": "shop"}).splitlines()
    assert lines[1] == "auc                 none     0.5000"
    assert lines[3].endswith("10 support rows each, in time order; baseline by 'shop'")
    without = describe_evaluation(report | {"baseline": None}).splitlines()
    assert without[3].endswith("drawn at random; baseline by task")
    assert undefined_metrics(report | more) == ["auc_adapted"]
