"""Validation errors of a step: one rank finds, all ranks raise, and the wording stands here alone.

A rank that raised alone would leave the others in their next collective. So each rank reports its
findings as numbers, the numbers are summed with the gradients, and every rank raises the error.
Evaluation and prediction sum nothing in a step: there the rank with the finding raises, and its
leaving the world ends the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gmeta_tf.batch import Batch, Rows, present_of
from gmeta_tf.embedding.exchange_strategy import Located
from gmeta_tf.embedding.sharded import ShardedEmbedding
from gmeta_tf.table_groups import key_groups

__all__ = [
    "LABEL_REMEDY",
    "Finding",
    "check",
    "key_findings",
    "key_problems",
    "label_finding",
    "label_problem",
    "label_text",
    "nonfinite_findings",
    "nonfinite_tables",
    "nonfinite_text",
    "policy_text",
    "range_text",
    "rejection_text",
]

_REJECTED = "a step was rejected: "
LABEL_REMEDY = (
    "State positive_from in the schema and prepare the data again, so that labels from there on "
    "are 1 and others 0; or train with mean_squared_error."
)


class Finding(NamedTuple):
    """Something that a step may not be done with.

    Attributes:
        is_found: bool scalar.
        text: gives the sentences about it, a string scalar.
    """

    is_found: tf.Tensor
    text: Callable[[], tf.Tensor]


def check(findings: Sequence[Finding], *, trains: bool = False) -> tf.Tensor:
    """Raises all that was found as one error; a good step pays for one condition.

    Args:
        findings: what to raise.
        trains: whether the step would have updated something, which the error then denies.

    Returns:
        What the rest of the step has to depend on.
    """

    def fail() -> tf.Tensor:
        texts = [
            tf.where(finding.is_found, tf.strings.join([finding.text(), " "]), "")
            for finding in findings
        ]
        text = tf.strings.strip(tf.strings.join([_REJECTED, *texts]))
        if trains:
            text = tf.strings.join([text, " Nothing was updated."])
        # Not tf.debugging.Assert, whose message in eager mode is another.
        raised = tf.raw_ops.Assert(condition=False, data=[text], summarize=1)
        with tf.control_dependencies([raised] if raised is not None else []):
            return tf.constant(True)

    is_any = tf.reduce_any([finding.is_found for finding in findings])
    return tf.cond(is_any, fail, lambda: tf.constant(False))


def rejection_text(error: Exception) -> str | None:
    """The text of the `check` that an error comes from; None for other errors."""
    # A text ends in a full stop, and after it only eager mode adds something to the line.
    found = re.search(rf"assertion failed: \[({_REJECTED}.*\.)\](?: \[Op:|$)", str(error), re.M)
    if found is None:
        return None
    # TensorFlow escapes quotes and backslashes.
    return re.sub(r"\\([\\'\"])", r"\1", found[1])


def key_problems(batch: Batch, located: Located) -> tf.Tensor:
    """1 where this rank cannot go on: for each table, then for each dynamic one's policies.

    Returns:
        float32 `[tables + dynamic tables]`.
    """
    of_tables = tf.cast(batch["out_of_range"] >= 0, tf.float32)
    if not located.problems:
        return of_tables
    problems = tf.stack(list(located.problems.values()))
    of_policies = tf.cast((problems[:, 0] > 0) | (problems[:, 2] > 0), tf.float32)
    return tf.concat([of_tables, of_policies], axis=0)


def key_findings(
    found: tf.Tensor, batch: Batch, located: Located, embedding: ShardedEmbedding
) -> list[Finding]:
    """The keys that ranks cannot go on with.

    Args:
        found: what `key_problems` gives, summed over the ranks where the step sums.
        batch: this rank's.
        located: this rank's.
        embedding: the tables.
    """
    others = found - key_problems(batch, located)
    names = embedding.table_names
    findings = []
    for index, name in enumerate(names):
        num_rows = embedding.schema.table(name).num_rows
        largest = batch["out_of_range"][index]
        findings.append(_range_finding(name, num_rows, largest, found[index], others[index]))
    tables_of = key_groups(embedding.schema)
    for index, (group, problem) in enumerate(located.problems.items(), len(names)):
        name = tables_of[group][0]
        capacity = embedding.dynamic[name].capacity
        findings.append(_policy_finding(name, capacity, problem, found[index], others[index]))
    return findings


def _range_finding(
    table: str, num_rows: int | None, largest: tf.Tensor, found: tf.Tensor, others: tf.Tensor
) -> Finding:
    return Finding(found > 0, lambda: range_text(table, num_rows, largest, others))


def _policy_finding(
    table: str, capacity: int | None, problem: tf.Tensor, found: tf.Tensor, others: tf.Tensor
) -> Finding:
    return Finding(found > 0, lambda: policy_text(table, capacity, problem, others))


def range_text(
    table: str, num_rows: int | None, largest: tf.Tensor, num_others: tf.Tensor
) -> tf.Tensor:
    """The error of keys outside their table.

    Args:
        table: its name.
        num_rows: its rows; None for a dynamic table, where only negative keys are outside.
        largest: int64 scalar, this rank's largest such key, as `out_of_range` in `Batch`: without
            its sign, and -1 for none. It is taken for negative where the table has that row.
        num_others: float scalar, how many other ranks met such keys.
    """
    is_negative = tf.constant(True) if num_rows is None else largest < num_rows
    # The smallest int64 has no positive counterpart, and arrives as 0.
    negative = tf.where(largest == 0, tf.constant(tf.int64.min, tf.int64), -largest)
    key = tf.strings.as_string(tf.where(is_negative, negative, largest))
    expected = "0 on" if num_rows is None else f"0 to {num_rows - 1}"
    remedy = (
        "Prepare the data anew: raw keys are integers from 0."
        if num_rows is None
        else "Prepare the data and build the tables from one schema."
    )
    got = _got([(largest >= 0, key)], num_others)
    return tf.strings.join([f"the table {table}: expected keys from {expected}, got ", got, remedy])


def policy_text(
    table: str, capacity: int | None, problem: tf.Tensor, num_others: tf.Tensor
) -> tf.Tensor:
    """The error of keys that a dynamic table's policies `"error"` object to.

    Args:
        table: its name.
        capacity: its most keys; None is limited by memory only.
        problem: int64 `[4]`, this rank's (see `DynamicShard.locate`).
        num_others: float scalar, how many other ranks met such keys.
    """
    number = [tf.strings.as_string(one) for one in tf.unstack(problem, num=4)]
    limit = "the memory" if capacity is None else f"the capacity of {capacity}"
    unknown = tf.strings.join([number[0], " unknown keys such as ", number[1]])
    beyond = tf.strings.join([number[2], f" keys beyond {limit} such as ", number[3]])
    got = _got([(problem[0] > 0, unknown), (problem[2] > 0, beyond)], num_others)
    return tf.strings.join(
        [
            f"the table {table}: expected a row for every key, as its policy is error, got ",
            got,
            "Check the data, load the table that has the keys, raise the capacity, or state "
            "another policy (DynamicTable).",
        ]
    )


def _got(
    own: Sequence[tuple[tf.Tensor, tf.Tensor]], num_others: tf.Tensor, what: str = "keys"
) -> tf.Tensor:
    """What this rank and others have met: a string scalar that ends a sentence."""
    parts = [tf.where(is_met, text, "") for is_met, text in own]
    count = tf.strings.as_string(tf.cast(num_others, tf.int64))
    others = tf.strings.join([f"such {what} on ", count, " other rank(s)"])
    parts = tf.stack([*parts, tf.where(num_others > 0, others, "")])
    met = tf.boolean_mask(parts, tf.strings.length(parts) > 0)
    return tf.strings.join([tf.strings.reduce_join(met, separator=", and "), ". "])


def label_problem(batch: Batch, labels: tuple[float, float]) -> tf.Tensor:
    """1 where a row of this rank has a label that the loss is not made for, a float32 scalar."""
    return tf.cast(tf.size(_labels_outside(batch, labels)) > 0, tf.float32)


def _labels_outside(batch: Batch, labels: tuple[float, float]) -> tf.Tensor:
    """The labels of present rows outside a range, `[N]`; NaN is outside."""
    lowest, highest = labels
    outside = []
    for part in (batch["support"], batch["query"]):
        label = part["label"]
        is_inside = (label >= lowest) & (label <= highest)
        outside.append(tf.boolean_mask(label, ~is_inside & present_of(part)))
    return tf.concat(outside, axis=0)


def label_finding(
    found: tf.Tensor, batch: Batch, labels: tuple[float, float], loss: str
) -> Finding:
    """Labels that the loss is not made for, on any rank.

    Args:
        found: what `label_problem` gives, summed over the ranks where the step sums.
        batch: this rank's.
        labels: the smallest and the largest label of the loss.
        loss: its name.
    """
    return Finding(
        found > 0, lambda: label_text(_labels_outside(batch, labels), found, labels, loss)
    )


def label_text(
    outside: tf.Tensor, num_ranks: tf.Tensor, labels: tuple[float, float], loss: str
) -> tf.Tensor:
    """The error of labels outside the loss's range: see `label_finding`.

    Args:
        outside: this rank's labels out of range, `[N]`.
        num_ranks: float scalar, how many ranks met such labels.
        labels: the smallest and the largest label of the loss.
        loss: its name.
    """
    lowest, highest = labels
    own = tf.concat([outside, [0.0]], axis=0)[0]
    is_met = tf.size(outside) > 0
    got = _got(
        [(is_met, tf.strings.as_string(own, shortest=True))],
        num_ranks - tf.cast(is_met, tf.float32),
        "labels",
    )
    return tf.strings.join(
        [
            f"{loss}: expected labels from {lowest:g} to {highest:g}, got ",
            got,
            LABEL_REMEDY,
        ]
    )


def nonfinite_tables(gradients: Rows, batch: Batch, embedding: ShardedEmbedding) -> tf.Tensor:
    """1 for each table whose rows have non-finite gradients (NaN or Inf) on this rank.

    They are tested as they travel: a large one may be infinite in 16 bits.

    Returns:
        float32 `[tables]`, in the order of `table_names`.
    """
    return tf.concat(
        [
            nonfinite_tables_of_group(
                embedding.as_sent(gradients[group], group),
                batch["keys"][group],
                [embedding.schema.table(name).num_rows for name in tables],
            )
            for group, tables in key_groups(embedding.schema).items()
        ],
        axis=0,
    )


def nonfinite_findings(
    is_finite: tf.Tensor, nonfinite: tf.Tensor, embedding: ShardedEmbedding
) -> list[Finding]:
    """Gradients of a step that are NaN or infinite on any rank.

    Args:
        is_finite: bool, whether the sums of the dense gradients and of the loss are finite.
        nonfinite: float32 `[tables]`, on how many ranks each table's row gradients are not.
        embedding: the tables.
    """
    return [
        Finding(
            ~is_finite | tf.reduce_any(nonfinite > 0),
            lambda: nonfinite_text(is_finite, nonfinite, embedding.table_names),
        )
    ]


def nonfinite_text(is_finite: tf.Tensor, nonfinite: tf.Tensor, tables: Sequence[str]) -> tf.Tensor:
    """The error of non-finite gradients: see `nonfinite_findings`.

    Args:
        is_finite: of the dense weights and the loss.
        nonfinite: on how many ranks each table has such gradients.
        tables: the tables' names.
    """
    ranks = tf.strings.as_string(tf.cast(nonfinite, tf.int64))
    found = [
        tf.where(
            nonfinite[index] > 0,
            tf.strings.join([f"the table {table} on ", ranks[index], " rank(s)"]),
            "",
        )
        for index, table in enumerate(tables)
    ]
    parts = tf.stack([*found, tf.where(is_finite, "", "the dense weights or the loss")])
    met = tf.boolean_mask(parts, tf.strings.length(parts) > 0)
    return tf.strings.join(
        [
            "expected finite gradients, got NaN or Inf in ",
            tf.strings.reduce_join(met, separator=", "),
            ". Look for such numbers in the data, lower the learning rates, or compile with "
            "non_finite=skip.",
        ]
    )


def nonfinite_tables_of_group(
    gradients: tf.Tensor, keys: tf.Tensor, num_rows: Sequence[int | None]
) -> tf.Tensor:
    """1 for each table of a group with a non-finite gradient (NaN or Inf), else 0.

    The sum of all tells whether to look closer, so a good step pays for one pass.

    Args:
        gradients: float32 `[U, D]`.
        keys: int64 `[U]`, counted over the group's tables.
        num_rows: of each of the tables, in order; None for a dynamic one, which is alone.

    Returns:
        float32 `[tables]`.
    """
    first_rows = np.cumsum([-(2**63) if num_rows[0] is None else 0, *num_rows[:-1]])

    def look_closer() -> tf.Tensor:
        is_bad = ~tf.reduce_all(tf.math.is_finite(gradients), axis=1)
        bad_keys = tf.boolean_mask(keys, is_bad)
        tables = tf.searchsorted(tf.constant(first_rows, tf.int64), bad_keys, side="right") - 1
        found = tf.math.unsorted_segment_sum(tf.ones_like(tables), tables, len(num_rows))
        return tf.cast(found > 0, tf.float32)

    return tf.cond(
        tf.math.is_finite(tf.reduce_sum(gradients)),
        lambda: tf.zeros([len(num_rows)]),
        look_closer,
    )
