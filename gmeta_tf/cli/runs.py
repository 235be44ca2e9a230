"""What the options of a run describe: its learner, model and batches, made or loaded."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import keras

import gmeta_tf as gm
from gmeta_tf.allowed import replicate_of
from gmeta_tf.cli.options import StepOptions, TrainOptions
from gmeta_tf.cli.run_files import read_config
from gmeta_tf.embedding.row_optimizers import row_optimizer
from gmeta_tf.saving.checkpoint import latest_checkpoint

__all__ = [
    "TRAIN_SPLIT",
    "build_learner",
    "build_model",
    "evaluation_batches",
    "load_run",
    "say",
    "training_batches",
]

_EVALUATED_QUERY_ROWS = 64
_EVALUATED_TASKS = 16
TRAIN_SPLIT = "train"


def build_model(options: TrainOptions, schema: gm.Schema, world: gm.World) -> gm.MetaModel:
    """The compiled model that the options describe."""
    learner = build_learner(options)
    embedding = gm.ShardedEmbedding(
        schema,
        options.width,
        seed=options.seed,
        scale=options.embedding_scale,
        wire=options.wire,
        replicate=replicate_of(options.replicate),
        dynamic=gm.DynamicTable(
            capacity=options.capacity,
            when_full=options.when_full,
            admit_after=options.admit_after,
            time_to_live=options.time_to_live,
        ),
        world=world,
    )
    model = gm.MetaModel(learner, embedding, _inner_loop(options, learner))
    optimizer = keras.optimizers.get(options.optimizer)
    settings = optimizer.get_config() | {"learning_rate": options.learning_rate}
    if options.weight_decay is not None:
        settings["weight_decay"] = options.weight_decay
    model.compile(
        type(optimizer).from_config(settings),
        row_optimizer(options.row_optimizer, learning_rate=options.row_learning_rate),
        loss=options.loss,
        metrics=options.metrics,
        look_ahead=options.look_ahead,
        non_finite=options.non_finite,
    )
    return model


def training_batches(
    options: StepOptions,
    records: gm.Records,
    world: gm.World,
    begin: gm.Progress = gm.Progress(),  # noqa: B008, frozen
) -> gm.TaskBatches:
    """The steps that `train` takes with the options, and that `plan` counts."""
    return gm.TaskBatches(
        records,
        TRAIN_SPLIT,
        tasks=options.tasks,
        support=options.support,
        query=options.query,
        every_row=options.every_row,
        in_time_order=options.in_time_order,
        buckets=options.buckets,
        seed=options.seed,
        world=world,
        begin=begin,
    )


def build_learner(options: StepOptions) -> Any:
    """The learner that the options describe, a Keras model without weights yet."""
    hidden = tuple(options.hidden)
    return gm.models.MeLU(hidden) if options.model == "melu" else gm.models.MamlDLRM(top=hidden)


def _inner_loop(options: TrainOptions, learner: Any) -> gm.InnerLoop:
    settings: dict[str, Any] = {
        "num_steps": options.inner_steps,
        "learning_rate": options.inner_learning_rate,
        "embedding_learning_rate": options.embedding_inner_learning_rate,
        "order": options.order,
        "overlap": options.overlap,
        "learn_rates": options.learn_rates,
    }
    inner: gm.InnerLoop = learner.inner_loop(**settings)
    if options.adapt_embeddings is None:
        return inner
    return dataclasses.replace(inner, adapt_embeddings=options.adapt_embeddings)


def load_run(
    run: str, world: gm.World, *, metrics: list[str] | None = None
) -> tuple[TrainOptions, gm.Records, gm.MetaModel]:
    """The options, the records and the model, as trained, of a run folder.

    Args:
        run: the folder.
        world: the ranks.
        metrics: what the model evaluates; None is what the run's options say.

    Raises:
        FileNotFoundError: no run there, or one without a checkpoint.
        ValueError: its config.yaml or its checkpoint cannot be read, or does not fit.
    """
    options = read_config(run)
    checkpoint = latest_checkpoint(pathlib.Path(run) / "checkpoint")
    if checkpoint is None:
        raise FileNotFoundError(
            f"{run} has no complete checkpoint yet. Train longer, or lower --checkpoint-every."
        )
    records = gm.Records.open(options.records)
    if metrics is not None:
        options = dataclasses.replace(options, metrics=metrics)
    model = build_model(options, records.schema, world)
    gm.load_checkpoint(model, checkpoint)
    return options, records, model


def evaluation_batches(
    records: gm.Records,
    split: str,
    support: int,
    seed: int,
    world: gm.World,
    *,
    in_time_order: bool = False,
) -> gm.TaskBatches:
    """Batches in which every row that is not support is a query row."""
    if split not in records.splits:
        raise ValueError(
            f"{records.path} has no split {split!r}; it has {', '.join(records.splits)}."
        )
    num_tasks = records.contents[split].tasks
    return gm.TaskBatches(
        records,
        split,
        tasks=max(1, min(_EVALUATED_TASKS, num_tasks // world.size)),
        support=support,
        query=_EVALUATED_QUERY_ROWS,
        every_query=True,
        in_time_order=in_time_order,
        shuffle=False,
        seed=seed,
        world=world,
    )


def say(world: gm.World, text: str) -> None:
    """Prints a line on rank 0."""
    if world.is_chief:
        print(text, flush=True)
