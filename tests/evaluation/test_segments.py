"""Figures by the value of a field, against loops over rows."""

import numpy as np
import pytest
from made_log import SCHEMA

from gmeta_tf.evaluation.evaluated_rows import EvaluatedRows
from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.evaluation.segments import segment_field, segments

METRICS = [metric("auc"), metric("mae"), metric("task_auc")]


def made(seed, slots):
    draw = np.random.default_rng(seed)
    task = np.sort(draw.integers(0, 8, 120))
    rows = EvaluatedRows(task, (draw.random(120) < 0.5) * 1.0, *draw.random((2, 120)))
    shares = [0.3, 0.25, 0.15, 0.1, 0.1, 0.06, 0.04]
    return rows, draw.choice(np.arange(-1, 6), (120, slots), p=shares)


def slow_figure(draws, which, one, side):
    values = []
    for rows, keys in draws:
        own = [n for n in range(len(rows)) if which(set(keys[n].tolist()))]
        values.append(one.value(rows.task[own], rows.label[own], getattr(rows, side)[own]))
    return np.mean(values)


@pytest.mark.parametrize("slots", [1, 3])
def test_segments_are_the_slow_twins(slots):
    draws = [made(0, slots), made(1, slots)]
    found = segments(draws, METRICS, most=3)
    counts = {}
    for _, keys in draws:
        for row in keys:
            for key in set(row.tolist()) - {-1}:
                counts[key] = counts.get(key, 0) + 1
    common = sorted(counts, key=lambda key: (-counts[key], key))[:3]
    assert [one.key for one in found] == [*common, None]
    assert 0 in common  # a missing value counts as one, an empty slot does not
    for one in found[:-1]:
        assert one.rows == counts[one.key] / 2
    for one in found:

        def which(keys, key=one.key):
            return not keys & set(common) if key is None else key in keys

        for known in METRICS:
            for side in ("adapted", "unadapted"):
                expected = slow_figure(draws, which, known, side)
                assert one.figures[f"{known.name}_{side}"] == pytest.approx(expected, nan_ok=True)


def test_no_other_rows_no_segment_for_them():
    rows, _ = made(0, 1)
    found = segments([(rows, np.full((120, 1), 4))], METRICS)
    assert [(one.key, one.rows) for one in found] == [(4, 120.0)]
    assert found[0].to_json("Drama")["value"] == "Drama"


@pytest.mark.parametrize(("name", "kind"), [("price", "a dense field"), ("nowhere", "none")])
def test_a_field_without_values(name, kind):
    with pytest.raises(ValueError, match=rf"item, genre, liked, got '{name}', which is {kind}"):
        segment_field(SCHEMA, name)
    assert segment_field(SCHEMA, "genre") == 2


def test_a_value_that_a_row_has_twice_counts_once():
    rows = EvaluatedRows(np.arange(3), np.ones(3), np.ones(3), np.ones(3))
    keys = np.array([[1, 1, 1], [2, 3, -1], [2, -1, -1]])
    found = segments([(rows, keys)], [metric("mae")], most=1)
    assert [(one.key, one.rows) for one in found] == [(2, 2.0), (None, 1.0)]
