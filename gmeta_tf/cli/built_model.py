"""The options of a run: its learner and model, made anew."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import keras

import gmeta_tf as gm
from gmeta_tf.allowed import ADAPT_DENSE, replicate_of
from gmeta_tf.cli.options import StepOptions, TrainOptions, flag_of
from gmeta_tf.cli.run_batches import TRAIN_SPLIT, training_batches
from gmeta_tf.embedding.row_optimizers import RowOptimizer, row_optimizer
from gmeta_tf.meta.decay import CosineDecay
from gmeta_tf.meta_io.records.first_look import first_look

__all__ = [
    "FOUND",
    "Training",
    "build_learner",
    "build_model",
    "build_task_encoder",
    "look_at_records",
    "say",
    "training_of",
]

# What is found in the records where it is not given; a checkpoint has what was found.
FOUND = ("task_fields", "label_centre", "label_scale")


class Training(NamedTuple):
    """How long a model is trained.

    Attributes:
        steps: in all epochs.
        tasks: in the training split.
    """

    steps: int
    tasks: int


def build_model(
    options: TrainOptions,
    schema: gm.Schema,
    world: gm.World,
    training: Training = Training(1, 1),  # noqa: B008, immutable
) -> gm.MetaModel:
    """The compiled model that the options describe.

    Args:
        options: of the run; see `look_at_records`.
        schema: what a row is.
        world: the ranks.
        training: how long it is trained; any for a model that is not.
    """
    learner = build_learner(options, schema)
    encoder = build_task_encoder(options, learner)
    embedding = gm.ShardedEmbedding(
        schema,
        options.width,
        seed=options.seed,
        scale=options.embedding_scale,
        wire=options.wire,
        replicate=replicate_of(options.replicate),
        exchange=options.exchange,
        dynamic=gm.DynamicTable(
            capacity=options.capacity,
            when_full=options.when_full,
            admit_after=options.admit_after,
            time_to_live=options.time_to_live,
        ),
        world=world,
    )
    inner = _inner_loop(options, learner)
    model = gm.MetaModel(learner, embedding, inner, task_encoder=encoder)
    optimizer = keras.optimizers.get(options.optimizer)
    rate = _rate(options.learning_rate, options, training)
    settings = optimizer.get_config() | {"learning_rate": rate}
    if options.weight_decay is not None:
        settings["weight_decay"] = options.weight_decay
    model.compile(
        type(optimizer).from_config(settings),
        _row_optimizer(options, training),
        loss=_loss("loss", options, schema),
        inner_loss=_loss("inner_loss", options, schema),
        metrics=options.metrics,
        look_ahead=options.look_ahead,
        non_finite=options.non_finite,
    )
    return model


def _loss(name: str, options: TrainOptions, schema: gm.Schema) -> Any:
    """What `compile` takes for the option of a loss."""
    loss = getattr(options, name)
    if loss != "ratings":
        return loss
    if schema.positive_from is None:
        raise ValueError(
            f"train: expected a schema with positive_from with {flag_of(name)} ratings, which "
            "learns from ratings where metrics are of clicks, got one without. "
            f"Use {flag_of(name)} mse."
        )
    return gm.rating_loss(*_units_of_labels(options))


def _units_of_labels(options: TrainOptions) -> tuple[float, float]:
    centre, scale = options.label_centre, options.label_scale
    return 0.0 if centre is None else centre, 1.0 if scale is None else scale


def _rate(rate: float, options: TrainOptions, training: Training) -> Any:
    """A learning rate, or how it falls."""
    return rate if options.decay == "none" else CosineDecay(rate, training.steps)


def _row_optimizer(options: TrainOptions, training: Training) -> RowOptimizer:
    rate = _rate(options.row_learning_rate, options, training)
    plain = row_optimizer(options.row_optimizer, learning_rate=rate)
    if options.row_shrinkage == 0:
        return plain
    # The outer loss is the mean over tasks, and over the heads of one.
    strength = options.row_shrinkage / (training.tasks * options.heads)
    return gm.ShrunkRows(optimizer=plain, strength=strength)


def training_of(options: TrainOptions, records: gm.Records, world: gm.World) -> Training:
    """How long the options train; steps are counted only where a rate falls with them."""
    steps = 1
    if options.decay != "none":
        steps = options.epochs * training_batches(options, records, world).steps_per_epoch
    return Training(steps, records.contents[TRAIN_SPLIT].tasks)


def look_at_records(options: TrainOptions, records: gm.Records, world: gm.World) -> TrainOptions:
    """The options, with what they leave to the records: `FOUND`. Reads the first episodes."""
    if options.model == "factors" or "ratings" in (options.loss, options.inner_loss):
        look = first_look(records, TRAIN_SPLIT)
        if options.label_centre is None:
            options = dataclasses.replace(options, label_centre=look.mean)
        if options.label_scale is None:
            options = dataclasses.replace(options, label_scale=look.deviation)
        if options.model == "factors" and options.task_fields is None:
            options = dataclasses.replace(options, task_fields=list(look.task_fields))
            found = ", ".join(look.task_fields) or "none"
            say(world, f"fields of the task, found in the records: {found} (else --task-fields)")
    return options


def build_learner(options: StepOptions, schema: gm.Schema) -> Any:
    """The learner that the options describe, a Keras model without weights yet.

    Raises:
        ValueError: a field of the task that the schema does not have.
    """
    if options.model == "factors":
        return gm.models.Factors(_positions(options, schema), heads=options.heads)
    hidden = tuple(options.hidden)
    makers: dict[str, Any] = {
        "melu": gm.models.MeLU,
        "mmaml": gm.models.MMAML,
        "cbml": gm.models.CBML,
        "maml_dlrm": lambda hidden: gm.models.MamlDLRM(top=hidden),
        "dlrm": lambda hidden: gm.models.DLRM(top=hidden),
    }
    if options.heads == 1:
        return makers[options.model](hidden)
    return gm.models.Heads([makers[options.model](hidden) for _ in range(options.heads)])


def build_task_encoder(options: StepOptions, learner: Any) -> Any:
    """What reads the support rows before the inner loop: a Keras model, or None.

    Args:
        options: of the run.
        learner: what `build_learner` made of them.
    """
    if options.model not in ("mmaml", "cbml"):
        return None
    if isinstance(options, TrainOptions) and (options.inner_loss or options.loss) == "ratings":
        centre, scale = _units_of_labels(options)
        return learner.task_encoder(centre=centre, scale=scale)
    return learner.task_encoder()


def _positions(options: StepOptions, schema: gm.Schema) -> list[int]:
    """Where the task's fields stand among the vectors of a row."""
    known = [field.name for field in schema.key_fields]
    for name in options.task_fields or ():
        if name not in known:
            raise ValueError(
                f"expected --task-fields to be among {', '.join(known)}, got {name!r}."
            )
    return [known.index(name) for name in options.task_fields or ()]


def _inner_loop(options: TrainOptions, learner: Any) -> gm.InnerLoop | gm.ClosedForm:
    if options.model == "factors":
        centre, scale = _units_of_labels(options)
        closed: gm.ClosedForm = learner.inner_loop(centre=centre, scale=scale)
        return closed
    if options.model == "dlrm":
        # Trained on the query rows as they are: no meta-learning.
        return gm.InnerLoop(0, heads=options.heads)
    settings: dict[str, Any] = {
        "num_steps": options.inner_steps,
        "learning_rate": options.inner_learning_rate,
        "embedding_learning_rate": options.embedding_inner_learning_rate,
        "order": options.order,
        "overlap": options.overlap,
        "learn_rates": options.learn_rates and options.rates_of,
        "clip_gradients": options.clip_gradients,
        "multi_step_loss": options.multi_step_loss,
        "second_order_after": options.second_order_after,
    }
    chosen: dict[str, Any] = {"outer_gradient": options.outer_gradient}
    if options.adapt_dense is not None:
        words = options.adapt_dense
        is_word = len(words) == 1 and words[0] in ADAPT_DENSE
        chosen["adapt_dense"] = words[0] if is_word else words
    if options.adapt_fields is not None:
        chosen["adapt_embeddings"] = options.adapt_fields
    elif options.adapt_embeddings is not None:
        chosen["adapt_embeddings"] = options.adapt_embeddings
    # At once: some do not go together with what the model's paper chooses.
    inner: gm.InnerLoop = dataclasses.replace(learner.inner_loop(**settings), **chosen)
    return inner


def say(world: gm.World, text: str) -> None:
    """Prints a line on rank 0."""
    if world.is_chief:
        print(text, flush=True)
