"""Which keys of a full table were seen longest ago, found a little in every step."""

from __future__ import annotations

import tensorflow as tf

from gmeta_tf.embedding.dynamic.growing_arrays import GrowingArray, when

__all__ = ["EvictionOrder"]

_SAMPLED = 1 << 16
_LEAST_WINDOW = 1 << 14
_SHARE = 32
_LONGEST_LIST = 1 << 16


class EvictionOrder:
    """The rows of a shard in the order in which their keys were last seen.

    Among keys last seen in one step the smallest come first. The order is exact, and a function of
    the keys and of when they were seen alone, wherever their rows lie: a run that resumes gives
    up the same keys.

    To sort all rows, or only to read when each was last seen, would stop the step that asks. So
    there are two lists. The *list* has all rows last seen up to one step, its bound, sorted; rows
    are taken from its front, and one that was seen since is passed over, since it is among the
    latest now. Meanwhile a hand goes over the rows, a window in each step, and collects those last
    seen after the bound and up to the next one, whose list follows. A bound is drawn from a sample
    of the rows, so that a list has about a thirty-second of them, or 2^16; where it lies decides
    only how long a list is, never the order.
    """

    def __init__(
        self, last_seen: GrowingArray, key_of: GrowingArray, *, first_row: int, name: str
    ) -> None:
        """Makes the order of a shard.

        Args:
            last_seen: row index -> step, int32, below 0 for a row without a key.
            key_of: row index -> key.
            first_row: the first row index of a key.
            name: of the variables.
        """
        self._last_seen, self._key_of, self._first_row = last_seen, key_of, first_row

        def variable(start: tf.Tensor, kind: str) -> tf.Variable:
            shape = [None] if start.shape.rank else []
            return tf.Variable(start, shape=shape, trainable=False, name=f"{name}/{kind}")

        none, zero = tf.zeros([0], tf.int64), tf.constant(0, tf.int64)
        with tf.device("CPU:0"):
            self._rows = variable(none, "rows")
            self._seen = variable(tf.zeros([0], tf.int32), "seen")
            self._taken = variable(zero, "taken")
            self._bound = variable(tf.constant(-1, tf.int32), "bound")
            self._next_bound = variable(tf.constant(-1, tf.int32), "next_bound")
            self._collected = variable(none, "collected")
            self._hand, self._end = variable(zero, "hand"), variable(zero, "end")

    def clear(self) -> None:
        """Begins anew; needed when rows are given an earlier step than they had."""
        self._rows.assign(tf.zeros([0], tf.int64))
        self._seen.assign(tf.zeros([0], tf.int32))
        self._collected.assign(tf.zeros([0], tf.int64))
        for counter in (self._taken, self._hand, self._end):
            counter.assign(0)
        for bound in (self._bound, self._next_bound):
            bound.assign(-1)

    def look_on(
        self, wanted: tf.Tensor, num_free: tf.Tensor, used: tf.Tensor, step: tf.Tensor
    ) -> None:
        """Goes on with the next list, so that it is whole when the list is used up.

        Args:
            wanted: int64 scalar, the rows that a step takes.
            num_free: int64 scalar, the rows that are to be had before one is taken.
            used: int64 scalar, the rows ever handed out.
            step: int64 scalar.
        """
        when(self._end == 0, lambda: self._begin_round(used, step))
        left = num_free + tf.size(self._rows, tf.int64) - self._taken
        rows_left = self._end - self._hand
        self._collect(rows_left * wanted // tf.maximum(left - wanted, 1) + 1)

    def take(self, wanted: tf.Tensor, used: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """The row indices of the keys seen longest ago, int64 `[N]`, whose rows are given up next.

        Args:
            wanted: int64 scalar.
            used: int64 scalar, the rows ever handed out.
            step: int64 scalar; keys seen in it are left out, so that N may be less than wanted.
        """

        def more(found: tf.Tensor, is_over: tf.Tensor) -> tf.Tensor:
            return ~is_over & (tf.size(found, tf.int64) < wanted)

        def take_or_turn(found: tf.Tensor, is_over: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            del is_over
            return tf.cond(
                self._taken < tf.size(self._rows, tf.int64),
                lambda: (tf.concat([found, self._front(wanted - _size(found))], 0), no),
                lambda: (found, self._turn(used, step)),
            )

        no = tf.constant(False)
        found, _ = tf.while_loop(
            more,
            take_or_turn,
            (tf.zeros([0], tf.int64), no),
            shape_invariants=(tf.TensorShape([None]), tf.TensorShape([])),
            parallel_iterations=1,
        )
        return found

    def _front(self, count: tf.Tensor) -> tf.Tensor:
        """Those of the list's next rows that were not seen since."""
        first = tf.identity(self._taken)
        rows, seen = self._rows[first : first + count], self._seen[first : first + count]
        self._taken.assign_add(_size(rows))
        return tf.boolean_mask(rows, self._last_seen.gather(rows) == seen)

    def _turn(self, used: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Puts the next list in the place of the list; whether there are no older keys at all."""
        when(self._end == 0, lambda: self._begin_round(used, step))
        self._collect(self._end)
        rows = self._collected.read_value()
        seen = self._last_seen.gather(rows)
        waits = (seen > self._bound) & (seen <= self._next_bound)
        rows, seen = tf.boolean_mask(rows, waits), tf.boolean_mask(seen, waits)
        by_key = _ascending(self._key_of.gather(rows))
        rows, seen = tf.gather(rows, by_key), tf.gather(seen, by_key)
        by_step = _ascending(seen)
        self._rows.assign(tf.gather(rows, by_step))
        self._seen.assign(tf.gather(seen, by_step))
        self._taken.assign(0)
        self._bound.assign(self._next_bound)
        self._begin_round(used, step)
        return (tf.size(rows) == 0) & (self._bound >= tf.cast(step, tf.int32) - 1)

    def _begin_round(self, used: tf.Tensor, step: tf.Tensor) -> None:
        """Draws the next bound, from among the steps before this one, and sets the hand back."""
        num_rows = used - self._first_row
        stride = tf.maximum(num_rows // _SAMPLED, 1)
        sample = self._last_seen.gather(tf.range(self._first_row, used, stride))
        last = tf.cast(step, tf.int32) - 1
        is_next = (sample > self._bound) & (sample <= last)
        count = tf.minimum(
            _size(sample) // _SHARE, _LONGEST_LIST * _size(sample) // tf.maximum(num_rows, 1)
        )
        count = tf.minimum(tf.maximum(count, 1), tf.math.count_nonzero(is_next))
        drawn = _smallest_bound(tf.where(is_next, sample, tf.int32.max), count)
        self._next_bound.assign(tf.where(count > 0, drawn, tf.maximum(last, self._bound)))
        self._collected.assign(tf.zeros([0], tf.int64))
        self._hand.assign(0)
        self._end.assign(num_rows)

    def _collect(self, window: tf.Tensor) -> None:
        """Moves the hand on by so many rows, at least by 2^14."""
        window = tf.minimum(tf.maximum(window, _LEAST_WINDOW), self._end - self._hand)

        def collect() -> None:
            rows = self._first_row + self._hand + tf.range(window)
            seen = self._last_seen.gather(rows)
            rows = tf.boolean_mask(rows, (seen > self._bound) & (seen <= self._next_bound))
            self._collected.assign(tf.concat([self._collected, rows], axis=0))
            self._hand.assign_add(window)

        when(window > 0, collect)


def _size(values: tf.Tensor) -> tf.Tensor:
    return tf.size(values, tf.int64)


def _ascending(values: tf.Tensor) -> tf.Tensor:
    """The order of values `[N]`, equal ones as they come."""
    # ~ turns the order round, where a minus has no answer for the smallest.
    return tf.math.top_k(tf.bitwise.invert(values), tf.size(values)).indices


def _smallest_bound(values: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The smallest b with at least `count` of the values `[N]`, all at least 0, at most b."""

    def halve(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        middle = low + (high - low) // 2
        enough = tf.math.count_nonzero(values <= middle) >= count
        return tf.where(enough, low, middle + 1), tf.where(enough, middle, high)

    low, _ = tf.while_loop(
        lambda low, high: low < high,
        halve,
        (tf.constant(0, tf.int32), tf.constant(tf.int32.max, tf.int32)),
    )
    return low
