"""`gmeta-tf evaluate`: which field its baseline counts, and its table."""

import types

import pytest
from made_log import SCHEMA

import gmeta_tf as gm
from gmeta_tf.cli.evaluate import _baseline_item, describe_evaluation
from gmeta_tf.cli.options import EvaluateOptions

SIZED = SCHEMA.with_num_rows({"item": 9, "genre": 5})


def item_of(schema, **options):
    records = types.SimpleNamespace(schema=schema, splits=("train", "test"))
    return _baseline_item(EvaluateOptions(run="r", **options), records)


def test_the_baseline_counts_the_first_categorical_field():
    assert item_of(SIZED) == "item"
    assert item_of(SIZED, item="liked") == "liked"


def test_there_may_be_nothing_to_count():
    """Keys without a limit have no array of rates; several values a row are no item."""
    fields = (gm.Field("item"), gm.Field("genre", "multi"))
    grows = gm.Schema(fields, "stars", "user", tables=(gm.Table("item", keys="raw"),))
    assert item_of(grows) is None
    with pytest.raises(ValueError, match=r"known size \(there is none\), got 'item'"):
        item_of(grows, item="item")
    later = gm.Schema((*fields, gm.Field("shop")), "stars", "user", tables=grows.tables)
    assert item_of(later) == "shop"


@pytest.mark.parametrize("item", ["price", "genre", "nowhere"])
def test_a_field_that_is_no_item(item):
    with pytest.raises(ValueError, match=rf"\(item, liked\), got '{item}'"):
        item_of(SIZED, item=item)


def test_the_table_has_each_metric_once():
    report = {
        "auc_adapted": 0.75,
        "auc_unadapted": 0.5,
        "auc_baseline": 0.625,
        "ndcg@5_adapted": 0.25,
        "ndcg@5_unadapted": 0.125,
        "tasks": 1234,
        "samples": 5678,
        "split": "test",
        "support": 10,
    }
    assert describe_evaluation(report).splitlines() == [
        "                 adapted  unadapted  baseline",
        "auc               0.7500     0.5000    0.6250",
        "ndcg@5            0.2500     0.1250",
        "1,234 tasks of the split 'test', 5,678 query rows, 10 support rows each",
    ]
    without = describe_evaluation(report | {"auc_baseline": None})
    assert without.splitlines()[1] == "auc               0.7500     0.5000"
