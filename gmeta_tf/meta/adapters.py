"""The one place that chooses how tasks adapt."""

from __future__ import annotations

import keras
import tensorflow as tf

from gmeta_tf.embedding.sharded import ShardedEmbedding
from gmeta_tf.meta.adapter import Adapter
from gmeta_tf.meta.closed_form import ClosedForm
from gmeta_tf.meta.closed_form_adapter import ClosedFormAdapter
from gmeta_tf.meta.fast_weights import TaskLearner
from gmeta_tf.meta.inner_loop import InnerLoop
from gmeta_tf.meta.learner_checks import check_one_number
from gmeta_tf.meta.task_adapter import TaskAdapter
from gmeta_tf.meta.task_encoder import TaskEncoder

__all__ = ["adapter_of"]


def adapter_of(
    learner: keras.Model,
    embedding: ShardedEmbedding,
    inner: InnerLoop | ClosedForm,
    example: dict[str, tf.Tensor],
    *,
    lanes: int,
    encoder: TaskEncoder | None = None,
) -> Adapter:
    """The adapter that `inner` describes.

    Args:
        learner: built.
        embedding: the tables.
        inner: how a task adapts.
        example: the learner's inputs for one row.
        lanes: in how many parts the tasks of a step are computed side by side.
        encoder: what reads the support rows before the inner loop, if anything does.

    Raises:
        ValueError: the learner does not suit; see the adapters.
    """
    if isinstance(inner, ClosedForm):
        if encoder is not None:
            raise ValueError(
                "MetaModel: expected no task_encoder with ClosedForm, whose prior may not know the "
                "support rows that its posterior reads. Use InnerLoop, or leave task_encoder out."
            )
        return ClosedFormAdapter(learner, inner, example, embedding.schema, lanes=lanes)
    check_one_number(learner, example, inner.heads)
    tasks = TaskLearner(
        learner, inner.adapt_dense, example, form=inner.fast_weights, heads=inner.heads
    )
    return TaskAdapter(
        tasks, inner, embedding.schema, embedding.width, lanes=lanes, encoder=encoder
    )
