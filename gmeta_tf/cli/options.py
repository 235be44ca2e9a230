"""What each subcommand of `gmeta-tf` takes: one frozen dataclass each, one flag for each field."""

from __future__ import annotations

import dataclasses

__all__ = [
    "EvaluateOptions",
    "ExportOptions",
    "InspectOptions",
    "PlanOptions",
    "PredictOptions",
    "PrepareOptions",
    "TrainOptions",
]

MODELS = ("melu", "maml_dlrm")
KEYS_FROM = ("records", "uniform")
WIRES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """Raw tables to a folder of task records: checked, split, encoded.

    Attributes:
        output: the records folder to make, or to append to; it may be remote, such as s3://...
        input: CSV, TSV, JSON lines or Parquet files or glob patterns, for data of your own; with
            schema. They may be remote, and are copied to `spill_folder` then.
        schema: a YAML or JSON file that says what a row is; see docs/architecture.md.
        movielens: a folder with MovieLens 100k or 1M as GroupLens or RecBole lay it out, or
            "download" for the 100k data. Has its own schema.
        test_fraction: the share that is held out for the test, of the tasks or of the rows.
        valid_fraction: the share that is held out for validation.
        seed: of the draw of held-out tasks.
        split_by: "task" holds out whole tasks, "time" the latest rows, "both" the latest rows of
            some tasks.
        num_files: the files of each split; more than you will have ranks.
        episode_rows: the most rows of an episode; tasks with more are cut into several. None is
            1024, or with --append the folder's.
        compression: of the records, "none" or "zlib". None is "none", or with --append the
            folder's.
        engine: what does the work: "duckdb" on this machine, or "spark", Apache Spark (needs
            PySpark and Java). Both write the same records.
        on_bad_row: "error" stops at rows without task, with a label that is no number, and so on;
            "drop" leaves them out and counts them.
        memory_limit: what the engine may take, such as "4GB"; beyond it spills to disk. None is
            most of the machine's.
        spill_folder: where to; None is beside the output (for copies of remote input the system's
            folder for temporary files).
        append: add a later log to the records folder; vocabularies grow, and no key changes. The
            split is the folder's.
        overwrite: replace a records folder that is there.
        progress: show the stages, on a terminal.
    """

    output: str
    input: list[str] | None = None
    schema: str | None = None
    movielens: str | None = None
    test_fraction: float = 0.2
    valid_fraction: float = 0.0
    seed: int = 0
    split_by: str = "task"
    num_files: int = 16
    episode_rows: int | None = None
    compression: str | None = None
    engine: str = "duckdb"
    on_bad_row: str = "error"
    memory_limit: str | None = None
    spill_folder: str | None = None
    append: bool = False
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if (self.movielens is None) == (self.input is None):
            raise ValueError(
                "prepare: expected either --movielens or --input, got "
                f"{'neither' if self.input is None else 'both'}."
            )
        if self.input is not None and self.schema is None:
            raise ValueError(
                "prepare: --input needs --schema, a YAML file with fields, label and task. "
                "docs/architecture.md shows one."
            )


@dataclasses.dataclass(frozen=True)
class InspectOptions:
    """Shows what a records folder holds: schema, counts and a few decoded episodes.

    Attributes:
        path: what `gmeta-tf prepare` made.
        split: the split to show; None shows all.
        episodes: how many episodes of a split to decode.
        verify: read everything, and name each damaged record by its file and offset; the exit
            status is 1 when there is one.
        json: print one JSON line and nothing else.
    """

    path: str = dataclasses.field(metadata={"positional": True})
    split: str | None = None
    episodes: int = 3
    verify: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.episodes < 0:
            raise ValueError(f"inspect: expected --episodes of at least 0, got {self.episodes}.")


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Shows what the tables take on each of W ranks and what a step sends, in one process.

    Flags that `gmeta-tf train` has too mean the same: give those that you will train with. The
    report tells, table by table, how many rows and bytes a rank gets, with the row optimizer's
    slots; how many distinct keys a rank's step has and how many of them other ranks own; how far
    the busiest owner is above the mean; the bytes that a rank sends for keys, rows and gradients;
    and whether the table would be cheaper replicated on every rank.

    Attributes:
        records: what `gmeta-tf prepare` made.
        world_size: W, the ranks that you think of; none of them has to be there.
        model: the learner, "melu" or "maml_dlrm"; its weights are what the AllReduce adds up.
        hidden: the widths of the learner's hidden layers.
        width: D, the numbers in an embedding row.
        row_optimizer: "adagrad", "row_wise_adagrad", "lazy_adam", "ftrl" or "sgd"; it decides how
            many slots a row has.
        wire: how rows and gradients travel: "float32", "bfloat16" or "float16".
        replicate: which tables every rank holds in full; see `gmeta-tf train`.
        tasks: T, the tasks in a step of one rank.
        support: S, the rows a task adapts on.
        query: Q, the rows it is judged on in a step.
        every_row: read every row in each epoch; see `gmeta-tf train`.
        in_time_order: adapt on the earlier rows of an episode and judge the later ones.
        buckets: with more than one, short episodes get steps of their own.
        seed: of the order of tasks and the draws of support rows.
        keys_from: where the numbers of distinct keys come from: "records" counts them in the first
            steps of every rank; "uniform" is the most that a formula expects, and reads no records.
        steps: how many steps of each rank are counted.
        json: print one JSON line and nothing else.
    """

    records: str
    world_size: int
    model: str = "melu"
    hidden: list[int] = dataclasses.field(default_factory=lambda: [64, 64])
    width: int = 16
    row_optimizer: str = "adagrad"
    wire: str = "float32"
    replicate: str = "auto"
    tasks: int = 32
    support: int = 10
    query: int = 40
    every_row: bool = False
    in_time_order: bool = False
    buckets: int = 1
    seed: int = 0
    keys_from: str = "records"
    steps: int = 20
    json: bool = False

    def __post_init__(self) -> None:
        known_of = {"model": MODELS, "keys_from": KEYS_FROM, "wire": WIRES}
        for name, known in known_of.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"plan: expected --{name.replace('_', '-')} to be {' or '.join(known)}, "
                    f"got {getattr(self, name)!r}."
                )
        for name in ("world_size", "width", "tasks", "support", "query", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"plan: expected --{name.replace('_', '-')} of at least 1, "
                    f"got {getattr(self, name)}."
                )


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Meta-trains a model: alone, or on many workers with `horovodrun -np 2 gmeta-tf train ...`.

    Attributes:
        records: what `gmeta-tf prepare` made.
        run: the folder that the run leaves: config, log, TensorBoard scalars, checkpoints, metrics.
        model: the learner, "melu" or "maml_dlrm".
        hidden: the widths of the learner's hidden layers.
        width: D, the numbers in an embedding row.
        inner_steps: K, the steps a task adapts on its support rows.
        inner_learning_rate: alpha, of the dense weights.
        embedding_inner_learning_rate: alpha of a task's embedding rows; None is the one above.
        order: 2 differentiates through the inner steps, 1 is first-order MAML.
        adapt_embeddings: whether a task's embedding rows adapt; None is as the model's paper has
            it (melu: no, maml_dlrm: yes).
        overlap: how the query reads a row that the support moved: "adapted" or "stale".
        learn_rates: train a rate for each variable and step.
        tasks: T, the tasks in a step of one rank.
        support: S, the rows a task adapts on.
        query: Q, the rows it is judged on in a step.
        every_row: read every row in each epoch: an episode of more than S + Q rows becomes several
            tasks. Otherwise it gives up to S + Q of its rows.
        in_time_order: adapt on the earlier rows of an episode and judge the later ones; otherwise
            both are drawn at random in each epoch.
        buckets: with more than one, short episodes get steps of their own, with less padding.
        look_ahead: on several ranks, send the next step's keys with the gradients of this one.
        epochs: passes over the tasks.
        optimizer: a Keras optimizer, for the dense weights.
        learning_rate: its learning rate.
        weight_decay: its weight decay; None is its own.
        row_optimizer: "adagrad", "row_wise_adagrad", "lazy_adam", "ftrl" or "sgd", for embedding
            rows.
        row_learning_rate: its learning rate.
        wire: how rows and gradients travel between ranks: "float32", "bfloat16" or "float16".
        replicate: which tables every rank holds in full, so that their rows do not travel: "auto",
            all where that makes steps shorter (small tables, none of which grows); "always", all of
            known size; "never", none; or names with commas between, such as genre,year: all tables
            of one width.
        non_finite: a step with a gradient that is no number is an error ("raise"), or passed over
            and counted ("skip").
        capacity: of each table without a limit (hashed or raw keys without num_rows), the most keys
            over all ranks; None is without limit.
        when_full: of such a table: "evict" the keys seen longest ago, let new keys read the
            "default" row, or "error".
        admit_after: of such a table, the steps that have to see a key before it gets a row.
        time_to_live: of such a table, the steps without a sighting after which a key gives its row
            up; None is never.
        embedding_scale: the largest absolute value of an initial embedding row.
        loss: "binary_crossentropy" or "mean_squared_error".
        metrics: what `evaluate` reports.
        validate: judge the split "valid" after each epoch, if the records have it.
        checkpoint_every: epochs between checkpoints.
        checkpoint_every_steps: steps between checkpoints within an epoch; None makes none there.
        seed: of the initial weights, the order of tasks and the draws of support rows.
        resume: go on from the run's last checkpoint.
        overwrite: throw away a run folder that is there.
    """

    records: str
    run: str
    model: str = "melu"
    hidden: list[int] = dataclasses.field(default_factory=lambda: [64, 64])
    width: int = 16
    inner_steps: int = 1
    inner_learning_rate: float = 0.5
    embedding_inner_learning_rate: float | None = None
    order: int = 2
    adapt_embeddings: bool | None = None
    overlap: str = "adapted"
    learn_rates: bool = False
    tasks: int = 32
    support: int = 10
    query: int = 40
    every_row: bool = False
    in_time_order: bool = False
    buckets: int = 1
    look_ahead: bool = True
    epochs: int = 10
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float | None = None
    row_optimizer: str = "adagrad"
    row_learning_rate: float = 0.1
    wire: str = "float32"
    replicate: str = "auto"
    non_finite: str = "raise"
    capacity: int | None = None
    when_full: str = "evict"
    admit_after: int = 1
    time_to_live: int | None = None
    embedding_scale: float = 0.05
    loss: str = "binary_crossentropy"
    metrics: list[str] = dataclasses.field(default_factory=lambda: ["auc", "task_auc", "log_loss"])
    validate: bool = True
    checkpoint_every: int = 10
    checkpoint_every_steps: int | None = None
    seed: int = 0
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(
                f"train: expected --model to be {' or '.join(MODELS)}, got {self.model!r}."
            )
        if self.epochs < 1:
            raise ValueError(f"train: expected --epochs of at least 1, got {self.epochs}.")
        if self.resume and self.overwrite:
            raise ValueError("train: --resume and --overwrite exclude each other.")


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Judges a run on tasks that it has not seen, adapted and unadapted, beside a baseline.

    Attributes:
        run: the run's folder.
        split: the split of the run's records to judge.
        support: the rows a task adapts on; None is the run's.
        seed: of the draw of support rows.
        item: the field whose keys the baseline counts; None is the first categorical field.
        train_split: the split that the baseline counts on.
        json: print one JSON line and nothing else.
    """

    run: str
    split: str = "test"
    support: int | None = None
    seed: int = 0
    item: str | None = None
    train_split: str = "train"
    json: bool = False


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Writes a run's model as a SavedModel of stock TensorFlow ops, in one process.

    Attributes:
        run: the run's folder.
        output: the SavedModel folder; None is `saved_model` in the run's folder.
    """

    run: str
    output: str | None = None


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Predicts raw query rows with an exported model, after adapting to raw support rows.

    Attributes:
        saved_model: what `gmeta-tf export` wrote.
        query: a CSV, TSV or Parquet file of the rows to predict: the task's column and the fields'.
        output: the CSV file to write: the query rows and a column `prediction`, grouped by task.
        support: a file of labelled rows of the same tasks; tasks without any are predicted with
            the shared values. None adapts nothing.
        tasks: how many tasks to predict at once.
    """

    saved_model: str
    query: str
    output: str
    support: str | None = None
    tasks: int = 64

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise ValueError(f"predict: expected --tasks of at least 1, got {self.tasks}.")
