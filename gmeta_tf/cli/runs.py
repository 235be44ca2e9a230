"""What the options of a run describe: its learner, model and batches, made or loaded."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any, NamedTuple

import keras
import numpy as np

import gmeta_tf as gm
from gmeta_tf.allowed import ADAPT_DENSE, replicate_of
from gmeta_tf.cli.inner_options import InnerOptions
from gmeta_tf.cli.options import StepOptions, TrainOptions, flag_of
from gmeta_tf.cli.run_files import read_config
from gmeta_tf.distributed.collectives import start
from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.embedding.row_optimizers import RowOptimizer, row_optimizer
from gmeta_tf.meta.decay import CosineDecay
from gmeta_tf.meta_io.records.fingerprint import check_fingerprint, has_other_rows
from gmeta_tf.meta_io.records.first_look import first_look
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.saving.checkpoints.checkpoint import (
    CheckedCheckpoint,
    checked_checkpoint,
    restore_checkpoint,
)
from gmeta_tf.saving.checkpoints.choice import ChosenCheckpoint, choose_checkpoint

__all__ = [
    "TRAIN_SPLIT",
    "LoadedRun",
    "Training",
    "as_found_before",
    "build_learner",
    "build_model",
    "build_task_encoder",
    "check_records",
    "check_validation",
    "evaluation_batches",
    "load_chosen_run",
    "load_earlier",
    "load_run",
    "look_at_records",
    "options_of_model",
    "say",
    "training_batches",
    "training_of",
]

_EVALUATED_QUERY_ROWS = 64
_EVALUATED_TASKS = 16
# What a model is built and compiled from, apart from what it reports.
_OF_MODEL = (
    *(
        "model",
        "hidden",
        "heads",
        "task_fields",
        "width",
        "row_optimizer",
        "wire",
        "seed",
        "embedding_scale",
        "loss",
        "label_centre",
        "label_scale",
    ),
    *(field.name for field in dataclasses.fields(InnerOptions)),
    *("optimizer", "learning_rate", "weight_decay", "row_learning_rate", "decay", "row_shrinkage"),
    *("capacity", "when_full", "admit_after", "time_to_live"),
    # No model's, but how it is evaluated unless an option says otherwise.
    *("support", "in_time_order"),
)
# What is found in the records where it is not given; a checkpoint has what was found.
_FOUND = ("task_fields", "label_centre", "label_scale")
TRAIN_SPLIT = "train"


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


def training_of(options: TrainOptions, records: gm.Records, world: gm.World) -> Training:
    """How long the options train; steps are counted only where a rate falls with them."""
    steps = 1
    if options.decay != "none":
        steps = options.epochs * training_batches(options, records, world).steps_per_epoch
    return Training(steps, records.contents[TRAIN_SPLIT].tasks)


def look_at_records(options: TrainOptions, records: gm.Records, world: gm.World) -> TrainOptions:
    """The options, with what they leave to the records: `_FOUND`. Reads the first episodes."""
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


class LoadedRun(NamedTuple):
    """What `load_run` gives.

    Attributes:
        options: of `gmeta-tf train`, as the model was trained.
        records: the run's records.
        model: compiled, with the weights of the checkpoint.
    """

    options: TrainOptions
    records: gm.Records
    model: gm.MetaModel


def load_run(
    run: str,
    world: gm.World | None = None,
    *,
    records_folder: str | None = None,
    metrics: list[str] | None = None,
    checkpoint: str | None = None,
    fall_back: bool = False,
) -> LoadedRun:
    """The options, the records and the model, as trained, of a run folder of `gmeta-tf train`.

    Every rank must call it. The model is to be evaluated, exported or looked at: rates that fell
    over the run (`decay`) are at their end, so to train on use `gmeta-tf train --resume`.

    Args:
        run: the folder.
        world: the ranks, connected; None detects and connects them.
        records_folder: where the records are; None is where they were.
        metrics: what the model evaluates; None is what the run's options say.
        checkpoint: the name of the checkpoint to load; None is the best by the validation, where
            the run was trained with `--patience` or `--choose-by`, and otherwise the newest.
        fall_back: where that one is damaged, load the newest other one that is not.

    Raises:
        FileNotFoundError: no run there, or one without a checkpoint.
        ValueError: its config.yaml or its checkpoint cannot be read, or does not fit; the records
            are not those that it was trained on.

    Example:
        options, records, model = gm.load_run("run")
        test = gm.TaskBatches(records, "test", support=options.support, every_query=True)
        model.evaluate(test, return_dict=True)
    """
    loaded, _ = load_chosen_run(
        run,
        world,
        records_folder=records_folder,
        metrics=metrics,
        checkpoint=checkpoint,
        fall_back=fall_back,
    )
    return loaded


def load_chosen_run(
    run: str,
    world: gm.World | None = None,
    *,
    records_folder: str | None = None,
    metrics: list[str] | None = None,
    checkpoint: str | None = None,
    fall_back: bool = False,
) -> tuple[LoadedRun, ChosenCheckpoint]:
    """`load_run`, and which checkpoint it loaded, and why."""
    if world is None:
        world = gm.World.detect()
        start(world)
    options = read_config(run)
    chosen = choose_checkpoint(
        pathlib.Path(run) / "checkpoint", world, name=checkpoint, fall_back=fall_back, best=True
    )
    if chosen is None:
        raise FileNotFoundError(
            f"{run} has no complete checkpoint yet. Train longer, or lower --checkpoint-every."
        )
    options = _as_trained(options, chosen.checked, world)
    if records_folder is not None:
        options = dataclasses.replace(options, records=records_folder)
    records = gm.Records.open(options.records)
    check_records(chosen.checked, records, world)
    if metrics is not None:
        options = dataclasses.replace(options, metrics=metrics)
    model = build_model(options, records.schema, world)
    restore_checkpoint(model, chosen.checked)
    return LoadedRun(options, records, model), chosen


def load_earlier(
    run: str, path: pathlib.Path, *, records_folder: str | None = None
) -> tuple[LoadedRun, dict[str, np.ndarray]]:
    """The model of an earlier checkpoint of a run, whatever was appended to its records since.

    In one process.

    Args:
        run: the run's folder.
        path: the checkpoint.
        records_folder: where the records are; None is where they were.

    Returns:
        The run, whose model has the tables of the checkpoint; and its vocabularies, which are the
        first values of those that the records have now.

    Raises:
        FileNotFoundError: no run or no checkpoint there.
        ValueError: the checkpoint is damaged, or the records are not those that it was trained on.
    """
    world = gm.World()
    checkpoint = checked_checkpoint(path, world)
    options = _as_trained(read_config(run), checkpoint, world)
    if records_folder is not None:
        options = dataclasses.replace(options, records=records_folder)
    records = gm.Records.open(options.records)
    check_records(checkpoint, records, world, to_go_on=True)
    sizes = {table["name"]: table["num_rows"] for table in checkpoint.manifest["tables"]}
    schema = dataclasses.replace(
        records.schema,
        tables=tuple(
            dataclasses.replace(table, num_rows=sizes.get(table.name, table.num_rows))
            for table in records.schema.tables
        ),
    )
    model = build_model(options, schema, world)
    restore_checkpoint(model, checkpoint)
    vocabularies = {
        table.name: read_vocabulary(records.path, table.name)[: (table.num_rows or 1) - 1]
        for table in schema.tables
        if table.keys == "vocabulary"
    }
    return LoadedRun(options, records, model), vocabularies


def as_found_before(options: TrainOptions, checkpoint: CheckedCheckpoint) -> TrainOptions:
    """The options, with what was found in the records when the checkpoint's model was made."""
    saved = checkpoint.details.get("options") or {}
    found: dict[str, Any] = {
        name: saved.get(name) for name in _FOUND if getattr(options, name) is None
    }
    return dataclasses.replace(options, **found)


def options_of_model(options: TrainOptions) -> dict[str, Any]:
    """The options that a model's weights belong to, for its checkpoints: JSON values."""
    return {name: getattr(options, name) for name in _OF_MODEL}


def check_records(
    checkpoint: CheckedCheckpoint,
    records: gm.Records,
    world: gm.World,
    *,
    to_go_on: bool = False,
) -> None:
    """Checks that the records are those that a checkpoint was trained on. Every rank must call it.

    Args:
        checkpoint: those of earlier versions do not say what they were trained on.
        records: what is to be trained or evaluated on.
        world: the ranks.
        to_go_on: they are to be trained on. The rows must be there too, and not only the schema and
            the vocabularies; rows and values that were appended to them are no fault.

    Raises:
        ValueError: they are others.
    """
    saved = checkpoint.details.get("records")

    def check() -> None:
        if saved is None:
            return
        check_fingerprint(saved, records, checkpoint.path, may_grow=to_go_on)
        other = has_other_rows(saved, records) if to_go_on else None
        if other is not None:
            raise ValueError(
                f"{records.path} holds other data than the checkpoint {checkpoint.path} was "
                f"trained on: {other}. Were they prepared anew? Give the records of the run, or "
                "train anew."
            )
        if records.generation > saved["generation"]:
            print(
                f"{records.path} was appended to since: generation {saved['generation']} is now "
                f"{records.generation}",
                file=sys.stderr,
            )

    on_chief(check, world, name="records_of_checkpoint")


def _as_trained(
    options: TrainOptions, checkpoint: CheckedCheckpoint, world: gm.World
) -> TrainOptions:
    """The run's options, with those of the model as the checkpoint has them.

    A run's config.yaml is a file for people, and newer than its checkpoint where a run that went on
    with other options has been killed.
    """
    saved = checkpoint.details.get("options")
    if not isinstance(saved, dict):
        return options
    known = {name: value for name, value in saved.items() if name in _OF_MODEL}
    changed = [name for name, value in known.items() if value != getattr(options, name)]
    found = [name for name in _FOUND if getattr(options, name) is None]
    changed = [name for name in changed if name not in found]
    if changed and world.is_chief:
        said = ", ".join(f"{name} {getattr(options, name)}, not {known[name]}" for name in changed)
        print(
            f"{checkpoint.path} was trained with other options than config.yaml says ({said}); "
            "the checkpoint's count",
            file=sys.stderr,
        )
    return dataclasses.replace(options, **known)


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


def check_validation(records: gm.Records) -> None:
    """Raises where validation could not choose a checkpoint without a look at the test split.

    In records that were split by time the same tasks are in both, and the rows of "valid" are the
    earlier ones.

    Raises:
        ValueError: no split "valid", or tasks that are in "test" too.
    """
    if "valid" not in records.splits:
        raise ValueError(
            "train: expected records with a split 'valid' with --patience and --choose-by, "
            f"{records.path} has {', '.join(records.splits)}. Leave the flags out, or prepare "
            "records with a larger valid_fraction."
        )
    if "test" not in records.splits or records.details.get("split", {}).get("by") == "time":
        return
    both = np.intersect1d(records.index("valid")["task"], records.index("test")["task"])
    if len(both):
        raise ValueError(
            f"train: expected tasks of the split 'valid' that are not in 'test', {len(both)} are "
            f"in both, the first is {both[0]}. Prepare the records anew."
        )


def say(world: gm.World, text: str) -> None:
    """Prints a line on rank 0."""
    if world.is_chief:
        print(text, flush=True)
