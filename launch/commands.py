"""The subcommands of `gmeta-tf`: build, call the library, report."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, cast

import duckdb
import keras
import numpy as np
import yaml

import gmeta_tf as gm
from gmeta_tf.baseline import baseline_auc
from gmeta_tf.checkpoint import latest_checkpoint
from gmeta_tf.collectives import agree, barrier, broadcast_json, start
from gmeta_tf.embedding.row_optimizers import row_optimizer
from gmeta_tf.launch.options import (
    REPLICATE,
    EvaluateOptions,
    ExportOptions,
    PlanOptions,
    PredictOptions,
    PrepareOptions,
    TrainOptions,
)
from gmeta_tf.meta_io.files import is_remote
from gmeta_tf.meta_io.movielens import movielens_100k, movielens_schema, movielens_source
from gmeta_tf.meta_io.prepare import Split
from gmeta_tf.meta_io.prepare import prepare as prepare_records
from gmeta_tf.meta_io.sources import Source, files_source
from gmeta_tf.meta_io.summary import describe
from gmeta_tf.meta_io.work_folder import work_folder
from gmeta_tf.predictor import Predictor

__all__ = ["build_learner", "build_model", "evaluate", "export", "predict", "prepare", "train"]

_JUDGED_QUERY_ROWS = 64
_JUDGED_TASKS = 16
TRAIN_SPLIT = "train"


def prepare(options: PrepareOptions) -> None:
    """`gmeta-tf prepare`."""
    with raw_rows(options) as (source, schema):
        split = Split(
            options.test_fraction, options.valid_fraction, options.seed, cast(Any, options.split_by)
        )
        records = prepare_records(
            source,
            schema,
            options.output,
            engine=options.engine,
            # Flags that nobody gave ask for nothing of the folder that is appended to.
            split=None if options.append and split == Split() else split,
            num_files=options.num_files,
            episode_rows=options.episode_rows,
            compression=options.compression,
            overwrite=options.overwrite,
            append=options.append,
            memory_limit=options.memory_limit,
            spill_folder=options.spill_folder,
            on_bad_row=cast(Any, options.on_bad_row),
            progress=options.progress,
        )
    print(describe(records))


@contextlib.contextmanager
def raw_rows(options: PrepareOptions) -> Iterator[tuple[Source, gm.Schema]]:
    """The rows to prepare and what they are; copies of remote files are gone at the end."""
    if options.movielens is not None:
        folder = (
            movielens_100k() if options.movielens == "download" else pathlib.Path(options.movielens)
        )
        yield movielens_source(folder), movielens_schema()
        return
    inputs = options.input or []
    if not any(is_remote(path) for path in inputs):
        yield files_source(inputs), read_schema(options.schema or "")
        return
    schema = read_schema(options.schema or "")  # before the copying, which may take long
    beside = pathlib.Path(options.spill_folder or tempfile.gettempdir()) / "gmeta-tf-copies"
    with work_folder(beside) as copies:
        yield files_source(inputs, copies=copies), schema


def train(options: TrainOptions) -> None:
    """`gmeta-tf train`; the same under `horovodrun`."""
    world = gm.World.detect()
    start(world)
    agree(dataclasses.asdict(options), world, name="the options of gmeta-tf train")
    run = pathlib.Path(options.run)
    records = gm.Records.open(options.records)
    checkpoint = latest_checkpoint(run / "checkpoint") if options.resume else None
    _claim_run_folder(run, options, world)
    keras.utils.set_random_seed(options.seed)
    model = build_model(options, records.schema, world)
    begin = gm.Progress()
    if checkpoint is not None:
        saved = gm.load_checkpoint(model, checkpoint)
        begin = gm.Progress(saved["epoch"])
        if "progress" in saved:
            begin = gm.Progress.from_json(saved["progress"])
        _say(world, f"resuming after epoch {saved['epoch']} from {checkpoint}")
    batches = training_batches(options, records, world, begin)
    folder = gm.RunFolder(
        run,
        batches,
        checkpoint_every=options.checkpoint_every,
        checkpoint_every_steps=options.checkpoint_every_steps,
    )
    valid = None
    if options.validate and "valid" in records.splits:
        valid = judged_batches(records, "valid", options.support, options.seed, world)
    _say(world, f"training on {world.size} rank(s), {batches.steps_per_epoch} steps an epoch")
    model.fit(
        batches,
        validation_data=valid,
        epochs=options.epochs,
        callbacks=[folder],
        verbose="auto" if sys.stdout.isatty() else 2,
    )
    _say(world, f"{run}: {folder.samples_per_second:,.0f} samples/s; `gmeta-tf evaluate` is next")


def evaluate(options: EvaluateOptions) -> None:
    """`gmeta-tf evaluate`; the same under `horovodrun`."""
    world = gm.World.detect()
    start(world)
    trained, records, model = load_run(options.run, world)
    support = trained.support if options.support is None else options.support
    batches = judged_batches(records, options.split, support, options.seed, world)
    results = model.evaluate(batches, return_dict=True, verbose=0)
    if world.is_chief:
        results["auc_baseline"] = _baseline(options, records, support)
        report = {
            **results,
            "split": options.split,
            "support": support,
            "auc": "pooled over the query rows",
            "positive_from": records.schema.positive_from,
        }
        report |= {name: int(results[name]) for name in ("tasks", "samples")}
        path = pathlib.Path(options.run) / f"evaluation-{options.split}.json"
        path.write_text(json.dumps(report, indent=2))
        print(json.dumps(report) if options.json else describe_evaluation(report))
    barrier(world, name="evaluated")


def export(options: ExportOptions) -> None:
    """`gmeta-tf export`, in one process."""
    run = pathlib.Path(options.run)
    output = pathlib.Path(options.output) if options.output else run / "saved_model"
    _, records, model = load_run(options.run, gm.World())
    gm.export_saved_model(model, output, records)
    print(output)


def predict(options: PredictOptions) -> None:
    """`gmeta-tf predict`."""
    predictor = Predictor.load(options.saved_model)
    query = read_rows(options.query)
    support = (
        {name: values[:0] for name, values in query.items()} | {predictor.schema.label: np.zeros(0)}
        if options.support is None
        else read_rows(options.support)
    )
    predictions = predictor(query, support, tasks=options.tasks)
    output = pathlib.Path(options.output)
    partial = output.with_name(output.name + ".partial")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*query, "prediction"])
        writer.writerows(zip(*query.values(), predictions.tolist(), strict=True))
    partial.rename(output)
    print(f"{output}: {len(predictions)} rows")


def build_model(options: TrainOptions, schema: gm.Schema, world: gm.World) -> gm.MetaModel:
    """The compiled model that the options describe."""
    learner, inner = build_learner(options)
    embedding = gm.ShardedEmbedding(
        schema,
        options.width,
        seed=options.seed,
        scale=options.embedding_scale,
        wire=options.wire,
        replicate=REPLICATE[options.replicate],
        dynamic=gm.DynamicTable(
            capacity=options.capacity,
            when_full=options.when_full,
            admit_after=options.admit_after,
            time_to_live=options.time_to_live,
        ),
        world=world,
    )
    model = gm.MetaModel(learner, embedding, inner)
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
    options: TrainOptions | PlanOptions,
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


def build_learner(options: TrainOptions) -> tuple[keras.Model, gm.InnerLoop]:
    """The learner that the options describe, without weights yet, and its inner loop."""
    settings: dict[str, Any] = {
        "num_steps": options.inner_steps,
        "learning_rate": options.inner_learning_rate,
        "embedding_learning_rate": options.embedding_inner_learning_rate,
        "order": options.order,
        "overlap": options.overlap,
        "learn_rates": options.learn_rates,
    }
    if options.model == "melu":
        learner: Any = gm.models.MeLU(tuple(options.hidden))
    else:
        learner = gm.models.MamlDLRM(top=tuple(options.hidden))
    inner = learner.inner_loop(**settings)
    if options.adapt_embeddings is not None:
        inner = dataclasses.replace(inner, adapt_embeddings=options.adapt_embeddings)
    return learner, inner


def load_run(run: str, world: gm.World) -> tuple[TrainOptions, gm.Records, gm.MetaModel]:
    """The options, the records and the model, as trained, of a run folder.

    Raises:
        FileNotFoundError: no run there, or one without a checkpoint.
    """
    folder = pathlib.Path(run)
    config = folder / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(
            f"{run} is no run folder: expected {config}. Make one with `gmeta-tf train`."
        )
    options = TrainOptions(**yaml.safe_load(config.read_text()))
    checkpoint = latest_checkpoint(folder / "checkpoint")
    if checkpoint is None:
        raise FileNotFoundError(
            f"{run} has no whole checkpoint yet. Train longer, or lower --checkpoint_every."
        )
    records = gm.Records.open(options.records)
    model = build_model(options, records.schema, world)
    gm.load_checkpoint(model, checkpoint)
    return options, records, model


def judged_batches(
    records: gm.Records, split: str, support: int, seed: int, world: gm.World
) -> gm.TaskBatches:
    """Batches that have every row judged that is not support."""
    episodes = len(records.index(split))
    return gm.TaskBatches(
        records,
        split,
        tasks=max(1, min(_JUDGED_TASKS, episodes // world.size)),
        support=support,
        query=_JUDGED_QUERY_ROWS,
        every_query=True,
        shuffle=False,
        seed=seed,
        world=world,
    )


def read_schema(path: str) -> gm.Schema:
    """Reads a schema from YAML or JSON.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no schema.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"no schema {path}: expected a YAML or JSON file.")
    values = yaml.safe_load(pathlib.Path(path).read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected fields, label and task, got {type(values).__name__}.")
    return gm.Schema.from_json(values)


def read_rows(path: str) -> dict[str, np.ndarray]:
    """Every column of a CSV, TSV or Parquet file, text as text, in the file's order."""
    with contextlib.closing(duckdb.connect()) as database:
        columns = database.execute(files_source(path).query).fetchnumpy()
    return {
        name: np.ma.filled(values, "") if values.dtype == object else np.asarray(values)
        for name, values in columns.items()
    }


def describe_evaluation(report: dict[str, Any]) -> str:
    """A small table of an evaluation."""
    names = [name.removesuffix("_adapted") for name in report if name.endswith("_adapted")]
    names = [name for name in names if not name.endswith("un")]
    lines = [f"{'':14}{'adapted':>10}{'unadapted':>11}{'baseline':>10}"]
    for name in dict.fromkeys(name.removesuffix("_un") for name in names):
        baseline = report["auc_baseline"] if name == "auc" else None
        last = "" if baseline is None else f"{baseline:10.4f}"
        lines.append(
            f"{name:14}{report[f'{name}_adapted']:10.4f}{report[f'{name}_unadapted']:11.4f}{last}"
        )
    lines.append(
        f"{report['tasks']:,} tasks of the split {report['split']!r}, {report['samples']:,} query "
        f"rows, {report['support']} support rows each"
    )
    return "\n".join(lines)


def _claim_run_folder(run: pathlib.Path, options: TrainOptions, world: gm.World) -> None:
    """Rank 0 makes the folder or finds it taken; every rank raises what it found."""
    problem = None
    if world.is_chief:
        config = run / "config.yaml"
        if run.exists() and any(run.iterdir()):
            if options.overwrite and not config.is_file():
                problem = f"{run} is no run folder, so --overwrite leaves it alone."
            elif options.overwrite:
                shutil.rmtree(run)
            elif not options.resume:
                problem = f"{run} is there. Choose another --run, or --resume or --overwrite it."
        if problem is None:
            run.mkdir(parents=True, exist_ok=True)
            saved = dataclasses.asdict(options) | {"resume": False, "overwrite": False}
            config.write_text(yaml.safe_dump(saved, sort_keys=False))
    problem = broadcast_json(problem, world, name="run_folder")
    if problem is not None:
        raise ValueError(problem)


def _baseline(options: EvaluateOptions, records: gm.Records, support: int) -> float | None:
    """The baseline's AUC on the same rows; None where labels are not clicks."""
    if records.schema.positive_from is None and not _is_click(records, options.split):
        return None
    items = [field.name for field in records.schema.fields if field.kind == "categorical"]
    item = options.item or (items[0] if items else "")
    batches = judged_batches(records, options.split, support, options.seed, gm.World())
    return baseline_auc(batches, options.train_split, item)


def _is_click(records: gm.Records, split: str) -> bool:
    labels = (words[0].view(np.float32) for _, words in records.read(split))
    return all(np.isin(label, (0.0, 1.0)).all() for label in labels)


def _say(world: gm.World, text: str) -> None:
    if world.is_chief:
        print(text, flush=True)
