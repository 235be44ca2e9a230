"""Evidence candidates: which items to ask a new task about (Lee et al., KDD 2019, section 3.4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from gmeta_tf.batch import Batch, LabelledRows, Rows, present_of
from gmeta_tf.embedding.pooling import field_slots
from gmeta_tf.meta.features import features_of, rows_of_pairs
from gmeta_tf.meta.meta_model import MetaModel
from gmeta_tf.meta.task_adapter import TaskAdapter
from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.schema import Schema
from gmeta_tf.table_groups import key_groups, num_rows_of

__all__ = ["Candidate", "evidence_candidates"]


class Candidate(NamedTuple):
    """An item, and how much a label of it would tell.

    Attributes:
        key: of the item's row; key k of a vocabulary is its value k - 1.
        score: `norm` times `num_rows`, each scaled so that items range from 0 to 1.
        norm: the mean gradient norm of the item's rows.
        num_rows: how often the item was read.
    """

    key: int
    score: float
    norm: float
    num_rows: int


def evidence_candidates(
    model: MetaModel, batches: TaskBatches, field: str, *, top: int = 20
) -> list[Candidate]:
    """The items whose labels move a task's weights most, among those that many tasks know.

    A row's norm is that of the gradient of the learner's output in the dense weights that adapt: of
    the loss, for an error of 1. (The authors' released code divides each loss by its size instead,
    so that under squared error rows that fit exactly count without bound.) Items are ranked by the
    product of the mean norm and of how often the item occurs, each scaled to range from 0 to 1 over
    the items.

    Args:
        model: of gradient steps, with dense weights that adapt and without a task encoder; of one
            rank.
        batches: one epoch of them is read, support and query rows alike; `every_row=True` reads
            each row.
        field: the categorical field of the items. Its key 0, values that training has not seen, is
            no candidate.
        top: how many candidates, at most.

    Returns:
        The candidates, best first.

    Raises:
        ValueError: a model that adapts in another way, several ranks, no such field, or top of
            less than 1.

    Example:
        options, records, model = gm.load_run("run")
        batches = gm.TaskBatches(records, "train", tasks=32, support=10, query=40, every_row=True)
        for candidate in gm.evidence_candidates(model, batches, "item"):
            print(candidate)
    """
    adapter = _checked(model, top)
    slot, group, first_key = _place_of(model.embedding.schema, field)

    @tf.function(autograph=False, reduce_retracing=True)
    def seen(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        rows = model.fetch(batch)
        keys = tf.pad(batch["keys"][group] - first_key, [[1, 0]])
        keys_of_pairs = tf.gather(keys, batch["pair_to_key"][group])
        found = []
        for part in (batch["support"], batch["query"]):
            pairs = part["pairs"][group][:, :, slot]
            there = present_of(part) & (pairs > 0)
            norms = _norms(adapter, rows, batch, part)
            found.append(
                (
                    tf.boolean_mask(tf.gather(keys_of_pairs, pairs), there),
                    tf.boolean_mask(norms, there),
                )
            )
        keys_read, norms_read = (tf.concat(one, axis=0) for one in zip(*found))
        return keys_read, norms_read

    steps = batches.dataset().take(batches.steps_per_epoch)
    read = [[one.numpy() for one in seen(batch)] for batch in steps]
    keys, place = np.unique(np.concatenate([one for one, _ in read]), return_inverse=True)
    num_rows = np.bincount(place, minlength=len(keys))
    norms = np.bincount(place, np.concatenate([one for _, one in read]), len(keys)) / num_rows
    known = keys > 0
    keys, num_rows, norms = keys[known], num_rows[known], norms[known]
    scores = _from_0_to_1(norms) * _from_0_to_1(num_rows)
    # Of equal scores the smaller key, so that the order is that of any run.
    best = np.lexsort((keys, -scores))[:top]
    return [
        Candidate(int(keys[i]), float(scores[i]), float(norms[i]), int(num_rows[i])) for i in best
    ]


def _checked(model: MetaModel, top: int) -> TaskAdapter:
    if top < 1:
        raise ValueError(f"evidence_candidates: expected top of at least 1, got {top}.")
    if model.world.is_distributed:
        raise ValueError(
            f"evidence_candidates: expected a model of one rank, got one of {model.world.size}. "
            "Load the run in one process."
        )
    adapter = model.adapter
    if not isinstance(adapter, TaskAdapter) or not adapter.tasks.adapted:
        raise ValueError(
            "evidence_candidates: expected a model whose dense weights adapt by gradient steps, "
            "got one that adapts in another way. In closed form the `deviation` of `predict` "
            "tells which items are known least."
        )
    if adapter.encoder is not None:
        raise ValueError(
            "evidence_candidates: expected a model without a task encoder, which reads labels that "
            "a new task does not have."
        )
    return adapter


def _place_of(schema: Schema, field: str) -> tuple[int, str, int]:
    """The slot of a field in its group of tables, the group, and the first key of its table."""
    fields = {one.name: one for one in schema.key_fields if one.kind == "categorical"}
    if field not in fields:
        raise ValueError(
            f"evidence_candidates: expected a categorical field, {', '.join(fields)}, got "
            f"{field!r}."
        )
    table = fields[field].table_name
    group, tables = next((g, names) for g, names in key_groups(schema).items() if table in names)
    first_key = sum(num_rows_of(schema, name) for name in tables[: tables.index(table)])
    in_group = [one for one in schema.key_fields if one.table_name in tables]
    sizes = dict(zip([one.name for one in in_group], field_slots(schema)[group], strict=True))
    names = list(sizes)
    return sum(sizes[name] for name in names[: names.index(field)]), group, first_key


def _norms(adapter: TaskAdapter, rows: Rows, batch: Batch, part: LabelledRows) -> tf.Tensor:
    """The gradient norm of each row's output, `[T, R]`: every row is a task of its own."""
    features = features_of(rows_of_pairs(rows, batch), part, adapter.schema)
    shape = tf.shape(part["label"])
    alone = {
        name: tf.reshape(value, [shape[0] * shape[1], 1, *value.shape[2:]])
        for name, value in features.items()
    }
    return tf.reshape(adapter.tasks.output_norms(alone), shape)


def _from_0_to_1(values: np.ndarray) -> np.ndarray:
    from_low: np.ndarray = values - min(values, default=0)
    highest = max(from_low, default=0)
    return from_low / highest if highest > 0 else np.ones(len(values))
