"""Changes between two states of a table, applied to the first, give the second."""

import numpy as np
import pytest

from gmeta_tf.saving.deltas.row_changes import (
    Moved,
    changes_of_indexed,
    changes_of_keyed,
    indexed_after,
    keyed_after,
)


def test_indexed_rows_move_change_and_begin():
    before = np.arange(10, dtype=np.float32).reshape(5, 2)
    moved = [Moved(0, 0, 3), Moved(3, 5, 2)]  # the first table has two new rows
    now = np.concatenate([before[:3], np.float32([[8, 8], [9, 9]]), before[3:]])
    assert changes_of_indexed(before, now, moved).indices.tolist() == [3, 4]
    now[1, 1], now[6, 0] = -1, np.nan
    changes = changes_of_indexed(before, now, moved)
    assert changes.indices.tolist() == [1, 3, 4, 6]
    np.testing.assert_array_equal(indexed_after(before, changes, moved), now)
    # NaN, and a zero's sign, by their bits.
    assert changes_of_indexed(now, now.copy(), [Moved(0, 0, 7)]).indices.tolist() == []
    zeros = np.zeros([1, 2], np.float32)
    assert changes_of_indexed(zeros, -zeros, [Moved(0, 0, 1)]).indices.tolist() == [0]


@pytest.mark.parametrize("seed", range(30))
def test_keyed_rows_come_go_and_change(seed):
    draw = np.random.default_rng(seed)

    def state(count):
        keys = np.sort(draw.choice(40, count, replace=False)).astype(np.int64) * 10**15 - 5
        return keys, draw.integers(0, 3, [count + 2, 2]).astype(np.float32)

    (keys, rows), (later_keys, later) = state(draw.integers(0, 25)), state(draw.integers(0, 25))
    changes = changes_of_keyed(keys, rows, later_keys, later)
    assert set(changes.evicted) == set(keys) - set(later_keys)
    old = dict(zip(keys.tolist(), rows.tolist(), strict=False))
    expected = [k for k, row in zip(later_keys.tolist(), later.tolist()) if old.get(k) != row]
    assert changes.keys.tolist() == expected
    found_keys, found = keyed_after(keys, rows, changes)
    np.testing.assert_array_equal(found_keys, later_keys)
    np.testing.assert_array_equal(found, later)
