"""The honest comparison of a meta-learner: the same network without meta-learning, fine-tuned."""

from __future__ import annotations

import dataclasses

import gmeta_tf as gm
from gmeta_tf.cli.built_model import build_model
from gmeta_tf.cli.options import TrainOptions

__all__ = ["fine_tuned"]


def fine_tuned(
    trained: gm.MetaModel, options: TrainOptions, num_steps: int, learning_rate: float
) -> gm.MetaModel:
    """A plain DLRM, whose tasks take gradient steps on their support rows when it is evaluated.

    Args:
        trained: by `gmeta-tf train --model dlrm`, on query rows as they are.
        options: it was trained with.
        num_steps: on a task's support rows, of all dense weights and the task's own rows.
        learning_rate: of them.
    """
    adapting = dataclasses.replace(
        options,
        model="maml_dlrm",
        inner_steps=num_steps,
        inner_learning_rate=learning_rate,
    )
    model = build_model(adapting, trained.embedding.schema, gm.World())
    for variable, value in zip(model.learner.weights, trained.learner.weights, strict=True):
        variable.assign(value)
    for group, shard in trained.embedding.shards.items():
        model.embedding.shards[group].rows.assign(shard.rows)
    return model
