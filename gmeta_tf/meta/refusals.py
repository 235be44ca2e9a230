"""What a step can not train on: met by one rank, summed over the ranks, raised by all together.

A rank that raised alone would leave the others in their next collective. So each rank tells by
numbers what it has met, they are summed with the gradients, and every rank raises the same.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from gmeta_tf.embedding.sharded import Located, ShardedEmbedding
from gmeta_tf.meta_io.pipeline import Batch, key_groups

__all__ = ["not_finite_check", "refusal_checks", "refusals"]


def refusals(batch: Batch, located: Located) -> tf.Tensor:
    """1 where this rank can not train: for each table, then for each dynamic one's policies.

    Returns:
        float32 `[tables + dynamic tables]`.
    """
    of_tables = tf.cast(batch["out_of_range"] >= 0, tf.float32)
    if not located.problems:
        return of_tables
    problems = tf.stack(list(located.problems.values()))
    of_policies = tf.cast((problems[:, 0] > 0) | (problems[:, 2] > 0), tf.float32)
    return tf.concat([of_tables, of_policies], axis=0)


def refusal_checks(
    refused: tf.Tensor, batch: Batch, located: Located, embedding: ShardedEmbedding
) -> list[tf.Operation]:
    """Raises where a rank has met keys that it can not train on.

    Args:
        refused: what `refusals` gives, summed over the ranks.
        batch: this rank's.
        located: this rank's.
        embedding: the tables.
    """
    names = embedding.table_names
    checks = [
        _check(
            tf.reduce_all(refused[: len(names)] <= 0),
            "a key lies outside its static table, or is negative. Tables, how many ranks met one "
            "in each, and the largest on this rank (-1 is none):",
            list(names),
            refused[: len(names)],
            batch["out_of_range"],
            "Nothing was updated. Prepare the data and build the tables from one schema.",
        )
    ]
    tables_of = key_groups(embedding.schema)
    for index, (group, problem) in enumerate(located.problems.items()):
        checks.append(
            _check(
                refused[len(names) + index] <= 0,
                f"the dynamic table {tables_of[group][0]} has met keys without a row, or is full, "
                "and its policy is error. Unknown keys on this rank, and the largest:",
                *tf.unstack(problem[:2]),
                "Keys that found it full, and the largest:",
                *tf.unstack(problem[2:]),
                "No row was updated. Check the data, raise the capacity, or state another policy "
                "(DynamicTable).",
            )
        )
    return checks


def not_finite_check(
    is_finite: tf.Tensor, not_finite: tf.Tensor, embedding: ShardedEmbedding
) -> tf.Operation:
    """Raises where the gradients of a step are NaN or infinite on any rank.

    Args:
        is_finite: bool, whether the sums of the dense gradients and of the loss are finite.
        not_finite: float32 `[tables]`, on how many ranks each table's row gradients are not.
        embedding: the tables.
    """
    return _check(
        is_finite & tf.reduce_all(not_finite <= 0),
        "gradients are NaN or infinite. Tables, and on how many ranks in each:",
        list(embedding.table_names),
        not_finite,
        "Whether those of the dense weights and the loss are finite:",
        is_finite,
        "Nothing was updated. Look for such numbers in the data, lower the learning rates, or "
        "compile with non_finite=skip.",
    )


def _check(holds: tf.Tensor, *data: Any) -> tf.Operation:
    longest = max((len(each) for each in data if isinstance(each, list)), default=1)
    return tf.debugging.Assert(holds, list(data), summarize=longest)
