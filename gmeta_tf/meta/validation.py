"""What a step may not train on: found by one rank, summed over the ranks, raised by all together.

A rank that raised alone would leave the others in their next collective. So each rank tells by
numbers what it has found, they are summed with the gradients, and every rank raises the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.batch import Batch, Rows
from gmeta_tf.embedding.dynamic.shard import problem_message
from gmeta_tf.embedding.exchange_strategy import Located
from gmeta_tf.embedding.sharded import ShardedEmbedding
from gmeta_tf.table_groups import key_groups

__all__ = [
    "check_keys_on_host",
    "key_checks",
    "key_problems",
    "nonfinite_check",
    "nonfinite_tables",
]


def key_problems(batch: Batch, located: Located) -> tf.Tensor:
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


def key_checks(
    found: tf.Tensor, batch: Batch, located: Located, embedding: ShardedEmbedding
) -> list[tf.Operation]:
    """Raises where a rank has met keys that it can not train on.

    Args:
        found: what `key_problems` gives, summed over the ranks.
        batch: this rank's.
        located: this rank's.
        embedding: the tables.
    """
    names = embedding.table_names
    checks = [
        _check(
            tf.reduce_all(found[: len(names)] <= 0),
            "a key lies outside its static table, or is negative. Tables, how many ranks met one "
            "in each, and the largest on this rank (-1 is none):",
            list(names),
            found[: len(names)],
            batch["out_of_range"],
            "Nothing was updated. Prepare the data and build the tables from one schema.",
        )
    ]
    tables_of = key_groups(embedding.schema)
    for index, (group, problem) in enumerate(located.problems.items()):
        checks.append(
            _check(
                found[len(names) + index] <= 0,
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


def check_keys_on_host(
    largest: np.ndarray, problems: Mapping[str, tf.Tensor], embedding: ShardedEmbedding
) -> None:
    """Raises where a step that does not train has met keys that it can not read.

    Args:
        largest: `out_of_range` of its batch.
        problems: of its `Located`.
        embedding: the tables.

    Raises:
        ValueError: names the table and the key.
    """
    for group, problem in problems.items():
        table = key_groups(embedding.schema)[group][0]
        message = problem_message(problem.numpy(), table, embedding.dynamic[table])
        if message:
            raise ValueError(message)
    for name, key in zip(embedding.table_names, largest, strict=True):
        if key >= 0 and name in embedding.dynamic:
            raise ValueError(
                f"expected keys of the dynamic table {name!r} from 0, got a negative one "
                f"(-{key}). Prepare the data anew: raw keys are integers from 0."
            )
        if key >= 0:
            raise ValueError(
                f"the key {key} lies outside the static table {name!r}, which has "
                f"{embedding.schema.table(name).num_rows} rows. Prepare the data and "
                "build the tables from one schema."
            )


def nonfinite_tables(gradients: Rows, batch: Batch, embedding: ShardedEmbedding) -> tf.Tensor:
    """1 for each table whose rows have gradients that are NaN or infinite on this rank.

    They are looked at as they travel: a large one may be infinite in 16 bits.

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


def nonfinite_check(
    is_finite: tf.Tensor, nonfinite: tf.Tensor, embedding: ShardedEmbedding
) -> tf.Operation:
    """Raises where the gradients of a step are NaN or infinite on any rank.

    Args:
        is_finite: bool, whether the sums of the dense gradients and of the loss are finite.
        nonfinite: float32 `[tables]`, on how many ranks each table's row gradients are not.
        embedding: the tables.
    """
    return _check(
        is_finite & tf.reduce_all(nonfinite <= 0),
        "gradients are NaN or infinite. Tables, and on how many ranks in each:",
        list(embedding.table_names),
        nonfinite,
        "Whether those of the dense weights and the loss are finite:",
        is_finite,
        "Nothing was updated. Look for such numbers in the data, lower the learning rates, or "
        "compile with non_finite=skip.",
    )


def _check(holds: tf.Tensor, *data: Any) -> tf.Operation:
    longest = max((len(each) for each in data if isinstance(each, list)), default=1)
    return tf.debugging.Assert(holds, list(data), summarize=longest)


def nonfinite_tables_of_group(
    gradients: tf.Tensor, keys: tf.Tensor, num_rows: Sequence[int | None]
) -> tf.Tensor:
    """1 for each table of a group in which a row's gradient is NaN or infinite, and else 0.

    The sum of all tells whether to look closer, so a step without any pays for one pass.

    Args:
        gradients: float32 `[U, D]`.
        keys: int64 `[U]`, counted over the group's tables.
        num_rows: of each of the tables, one after the other; None of a dynamic one, which is alone.

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
