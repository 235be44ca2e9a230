"""What each subcommand of `gmeta-tf` takes: one frozen dataclass each, one flag for each field.

Nothing here imports TensorFlow, and each class checks its own values, so that a wrong flag is told
at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import docstring_parser

from gmeta_tf import allowed
from gmeta_tf.allowed import check_word

__all__ = [
    "CandidatesOptions",
    "EvaluateOptions",
    "ExportOptions",
    "InspectOptions",
    "PlanOptions",
    "PredictOptions",
    "PrepareOptions",
    "ReaderFlags",
    "ReportOptions",
    "StepOptions",
    "TrainOptions",
    "description_of",
    "flag_of",
    "help_of",
]


class _Range(NamedTuple):
    """Which numbers an option takes, in words and as a test."""

    expected: str
    holds: Callable[[Any], bool]


_AT_LEAST_0 = _Range("of at least 0", lambda number: number >= 0)
_AT_LEAST_1 = _Range("of at least 1", lambda number: number >= 1)
_AT_LEAST_2 = _Range("of at least 2", lambda number: number >= 2)
_FRACTION = _Range("of at least 0 and below 1", lambda number: 0 <= number < 1)
_SHARE = _Range("above 0 and at most 1", lambda number: 0 < number <= 1)
_FINITE = _Range("to be a finite number", math.isfinite)
_RATE = _Range("to be a finite number of at least 0", lambda number: 0 <= number < math.inf)
_ABOVE_0 = _Range("to be a finite number above 0", lambda number: 0 < number < math.inf)
_SEED = _Range("of at least 0 and below 2**32", lambda number: 0 <= number < 2**32)
_ORDER = _Range("to be 1 or 2", lambda number: number in (1, 2))


def _number(default: Any, of: _Range) -> Any:
    return dataclasses.field(default=default, metadata={"range": of})


def _required_number(of: _Range) -> Any:
    return dataclasses.field(metadata={"range": of})


def _word(default: str | None, of: Collection[str]) -> Any:
    return dataclasses.field(default=default, metadata={"words": of})


def _of_model(of: _Range | None = None, words: Collection[str] | None = None) -> Any:
    """An option that is None until `_fill_in` gives it what suits the model."""
    metadata = {"range": of} if words is None else {"words": words}
    return dataclasses.field(default=None, metadata=metadata)


# What suits a model, found on other draws of cold users than those that the figures are told of.
_GRADIENT_STEPS: dict[str, Any] = {
    "width": 16,
    "row_optimizer": "adagrad",
    "query": 40,
    "heads": 1,
    "epochs": 10,
    "learning_rate": 1e-3,
    "row_learning_rate": 0.1,
    "row_shrinkage": 0.0,
    "embedding_scale": 0.05,
    "decay": "none",
}
_DEFAULTS_OF_MODEL: dict[str, dict[str, Any]] = {
    "melu": _GRADIENT_STEPS,
    "maml_dlrm": _GRADIENT_STEPS,
    "mmaml": _GRADIENT_STEPS,
    "cbml": _GRADIENT_STEPS,
    "dlrm": _GRADIENT_STEPS,
    "factors": {
        "width": 24,
        "row_optimizer": "lazy_adam",
        "query": 190,
        "heads": 4,
        "epochs": 12,
        "learning_rate": 0.01,
        "row_learning_rate": 0.01,
        "row_shrinkage": 60.0,
        "embedding_scale": 0.1,
        "decay": "cosine",
    },
}


def flag_of(name: str) -> str:
    """The flag of a field.

    >>> flag_of("row_optimizer")
    '--row-optimizer'
    """
    return f"--{name.replace('_', '-')}"


def description_of(kind: type[_Options]) -> str:
    """What a class of options says of its subcommand."""
    return docstring_parser.parse(kind.__doc__ or "").description or ""


def help_of(kind: type[_Options]) -> dict[str, str]:
    """Field -> its help, from the docstrings of the class and of those that it extends."""
    documented: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        params = docstring_parser.parse(one.__doc__ or "").params
        documented |= {param.arg_name: param.description or "" for param in params}
    return documented


@dataclasses.dataclass(frozen=True)
class _Options:
    """Checks each field's words and range.

    Raises:
        ValueError: a value that is not among the words, or out of its range.
    """

    def __post_init__(self) -> None:
        self._fill_in()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            named = f"{self._command()}: {flag_of(field.name)}"
            if "words" in field.metadata:
                check_word(named, value, field.metadata["words"])
            of: _Range | None = field.metadata.get("range")
            for number in value if isinstance(value, list) else [value]:
                if of is not None and not of.holds(number):
                    raise ValueError(
                        f"{self._command()}: expected {flag_of(field.name)} {of.expected}, "
                        f"got {number}."
                    )

    def _fill_in(self) -> None:
        """Gives options that were not given what suits the others."""
        return  # most commands have no such options

    @classmethod
    def _command(cls) -> str:
        return cls.__name__.removesuffix("Options").lower()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderFlags(_Options):
    """How CSV and TSV files are written, where not in the usual way.

    Attributes:
        separator: what stands between cells of CSV and TSV, such as ";" or "::"; None is a comma in
            CSV and a tab in TSV.
        quoting: "minimal", where cells with separators or ends of lines are in quotes, or "none",
            where a quote is a letter like others; None is "minimal", unless a file can be read
            either way.
        columns: the names of the columns of CSV and TSV without a header.
        null_words: cells that stand for a missing value, as empty ones do, such as NULL.
        encoding: of CSV and TSV: "utf-8", "latin-1" or "utf-16"; None is "utf-8".
        format: "csv" or "tsv", whatever the files' names end in.
    """

    separator: str | None = None
    quoting: str | None = _word(None, of=allowed.QUOTINGS)
    columns: list[str] | None = None
    null_words: list[str] | None = None
    encoding: str | None = _word(None, of=allowed.ENCODINGS)
    format: str | None = _word(None, of=allowed.FILE_FORMATS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions(ReaderFlags):
    """Raw tables to a folder of task records: checked, split, encoded.

    Attributes:
        output: the records folder to make, or to append to; it may be remote, such as s3://...
        input: CSV, TSV, JSON lines or Parquet files or glob patterns, for data of your own; with
            schema. They may be remote, and are copied to `spill_folder` then.
        schema: a YAML or JSON file that says what a row is, and under `read` how files are written;
            see docs/architecture.md.
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
        on_bad_row: "error" stops at the first bad row, such as one without a task or whose label
            is not a number; "drop" leaves bad rows out and counts them.
        max_bad_share: the largest share of the rows that "drop" may leave out; with more, prepare
            stops.
        memory_limit: the memory that the engine may take, such as "4GB"; beyond it spills to disk.
            None is most of the machine's.
        spill_folder: where it spills to; None is beside the output (for copies of remote input the
            system's folder for temporary files).
        append: add a later log to an existing records folder. The folder's split stays,
            vocabularies grow, and no key changes.
        allow_same_input: take a file that the records have already, or that is given twice; its
            rows then count twice.
        overwrite: replace an existing records folder, once the new one is complete.
        progress: show the stages, on a terminal.
    """

    output: str
    input: list[str] | None = None
    schema: str | None = None
    movielens: str | None = None
    test_fraction: float = _number(0.2, of=_FRACTION)
    valid_fraction: float = _number(0.0, of=_FRACTION)
    seed: int = _number(0, of=_AT_LEAST_0)
    split_by: str = _word("task", of=allowed.SPLITS_BY)
    num_files: int = _number(16, of=_AT_LEAST_1)
    episode_rows: int | None = _number(None, of=_AT_LEAST_2)
    compression: str | None = _word(None, of=allowed.COMPRESSIONS)
    engine: str = _word("duckdb", of=allowed.ENGINES)
    on_bad_row: str = _word("error", of=allowed.ON_BAD_ROW)
    max_bad_share: float = _number(0.1, of=_SHARE)
    memory_limit: str | None = None
    spill_folder: str | None = None
    append: bool = False
    allow_same_input: bool = False
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
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
        given = [
            flag_of(field.name)
            for field in dataclasses.fields(ReaderFlags)
            if getattr(self, field.name) is not None
        ]
        if self.movielens is not None and given:
            raise ValueError(
                f"prepare: {', '.join(given)} says how --input is written, and --movielens knows "
                "how its files are. Leave one of them out."
            )
        if self.append and self.overwrite:
            raise ValueError("prepare: --append and --overwrite exclude each other.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectOptions(_Options):
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
    episodes: int = _number(3, of=_AT_LEAST_0)
    verify: bool = False
    json: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions(_Options):
    """What `train` and `plan` share: the records, and all that decides what a step sends.

    Attributes:
        records: what `gmeta-tf prepare` made.
        model: the learner, "melu", "maml_dlrm", "mmaml", "cbml", "factors", or "dlrm", which does
            not adapt; docs/models.md tells which to choose.
        hidden: the widths of the hidden layers; factors has none.
        heads: of factors, the models side by side whose predictions are averaged; they share the
            width evenly. None is 4.
        task_fields: of factors, the fields that describe the task, such as a user's age. None finds
            those that are the same in all rows of each task.
        width: D, the numbers in an embedding row; None is 16, and of factors 24.
        row_optimizer: "adagrad", "row_wise_adagrad", "lazy_adam", "ftrl" or "sgd", for embedding
            rows; it decides how many slots a row has. None is adagrad, and of factors lazy_adam.
        wire: how rows and gradients travel between ranks: "float32", "bfloat16" or "float16".
        replicate: which tables every rank holds in full, so that their rows do not travel: "auto",
            all where that makes steps shorter (small tables, none of which grows); "always", all of
            known size; "never", none; or names with commas between, such as genre,year: all tables
            of one width.
        tasks: T, the tasks in a step of one rank.
        support: S, the rows a task adapts on.
        query: Q, the rows it is evaluated on in a step; None is 40, and of factors 190.
        every_row: read every row in each epoch: an episode of more than S + Q rows becomes several
            tasks. Otherwise it gives up to S + Q of its rows.
        in_time_order: adapt on the earlier rows of an episode and evaluate on the later ones;
            otherwise both are drawn at random in each epoch.
        buckets: with more than one, short episodes get steps of their own, with less padding.
        seed: of the initial weights, the order of tasks and the draws of support rows.
    """

    records: str
    model: str = _word("melu", of=allowed.LEARNERS)
    hidden: list[int] = dataclasses.field(
        default_factory=lambda: [64, 64], metadata={"range": _AT_LEAST_1}
    )
    heads: int = _of_model(_AT_LEAST_1)
    task_fields: list[str] | None = None
    width: int = _of_model(_AT_LEAST_1)
    row_optimizer: str = _of_model(words=allowed.ROW_OPTIMIZERS)
    wire: str = _word("float32", of=allowed.WIRES)
    replicate: str = "auto"
    tasks: int = _number(32, of=_AT_LEAST_1)
    support: int = _number(10, of=_AT_LEAST_1)
    query: int = _of_model(_AT_LEAST_1)
    every_row: bool = False
    in_time_order: bool = False
    buckets: int = _number(1, of=_AT_LEAST_1)
    seed: int = _number(0, of=_SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == "factors":
            if self.hidden != [64, 64]:
                raise ValueError(
                    f"{self._command()}: expected no --hidden with --model factors, which has no "
                    "hidden layers. Leave it out."
                )
            return
        for name, given in (("heads", self.heads != 1), ("task_fields", self.task_fields)):
            if given:
                raise ValueError(
                    f"{self._command()}: expected --model factors with {flag_of(name)}, got "
                    f"--model {self.model}. Leave {flag_of(name)} out, or train factors."
                )

    def _fill_in(self) -> None:
        own = {field.name for field in dataclasses.fields(self)}
        for name, value in _DEFAULTS_OF_MODEL.get(self.model, {}).items():
            if name in own and getattr(self, name) is None:
                object.__setattr__(self, name, value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions(StepOptions):
    """Shows what the tables take on each of W ranks and what a step sends, in one process.

    Flags that `gmeta-tf train` has too mean the same: give those that you will train with. The
    report tells, table by table, how many rows and bytes a rank gets, with the row optimizer's
    slots; how many distinct keys a rank's step has and how many of them other ranks own; how far
    the busiest owner is above the mean; the bytes that a rank sends for keys, rows and gradients;
    and whether the table would be cheaper replicated on every rank.

    Attributes:
        world_size: W, the number of ranks to plan for; none of them has to exist.
        keys_from: where the numbers of distinct keys come from: "records" counts them in the first
            steps of every rank; "uniform" is the most that a formula expects, and reads no records.
        steps: how many steps of each rank are counted.
        json: print one JSON line and nothing else.
    """

    world_size: int = _required_number(of=_AT_LEAST_1)
    keys_from: str = _word("records", of=allowed.KEYS_FROM)
    steps: int = _number(20, of=_AT_LEAST_1)
    json: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(StepOptions):
    """Meta-trains a model: alone, or on many workers with `horovodrun -np 2 gmeta-tf train ...`.

    Attributes:
        run: the folder for what the run leaves: config, log, TensorBoard scalars, checkpoints,
            metrics.
        inner_steps: K, the steps a task adapts on its support rows.
        inner_learning_rate: alpha, of the dense weights.
        embedding_inner_learning_rate: alpha of a task's embedding rows; None is the one above.
        order: 2 differentiates through the inner steps, 1 is first-order MAML.
        adapt_embeddings: whether a task's embedding rows adapt; None is as the model's paper has
            it (melu: no, maml_dlrm: yes).
        overlap: how the query reads a row that the support moved: "adapted" or "stale".
        learn_rates: train a rate for each variable and step.
        look_ahead: on several ranks, send the next step's keys with the gradients of this one.
        epochs: passes over the tasks; None is 10, and of factors 12.
        optimizer: a Keras optimizer, for the dense weights.
        learning_rate: its learning rate; None is 0.001, and of factors 0.01.
        weight_decay: its weight decay; None is its own.
        row_learning_rate: the row optimizer's learning rate; None is 0.1, and of factors 0.01.
        decay: how both learning rates fall over the epochs: "none" or "cosine", to 0. None is none,
            and of factors cosine.
        row_shrinkage: pulls embedding rows to 0, the more the fewer examples they have, as a
            Gaussian prior of this precision does; None is 0, and of factors 60.
        non_finite: a step with a non-finite gradient (NaN or Inf) is an error ("raise"), or is
            left out and counted ("skip").
        capacity: of each table without a limit (hashed or raw keys without num_rows), the most keys
            over all ranks; None is without limit.
        when_full: of such a table: "evict" the keys seen longest ago, let new keys read the
            "default" row, or "error".
        admit_after: of such a table, the steps that have to see a key before it gets a row.
        time_to_live: of such a table, a key gives its row up after so many steps that did not see
            it; None is never.
        embedding_scale: the largest absolute value of an initial embedding row; None is 0.05, and
            of factors 0.1.
        loss: "binary_crossentropy" (bce) for labels of 0 and 1, "mean_squared_error" (mse) for
            numbers, or "ratings": adapt to and learn from ratings by their squared error, where the
            schema's positive_from makes clicks of them for the metrics.
        label_centre: of factors and the loss ratings, the label about which numbers are small; None
            takes the mean label of the first tasks.
        label_scale: likewise, how far labels are from it; None takes their standard deviation.
        metrics: what `evaluate` reports; None is what the loss suits, auc, task_auc and log_loss
            or rmse and mae.
        validate: evaluate on the split "valid" after each epoch, if the records have it.
        checkpoint_every: epochs between checkpoints.
        checkpoint_every_steps: steps between checkpoints within an epoch; None makes none there.
        resume: go on from the run's last checkpoint.
        checkpoint: with resume, the name of the checkpoint to go on from, such as epoch-000003;
            None is the newest. Newer ones are moved to `set_aside` in the run's folder.
        fall_back: with resume, go on from the newest checkpoint that is not damaged.
        overwrite: delete an existing run folder and start anew.
    """

    run: str
    inner_steps: int = _number(1, of=_AT_LEAST_0)
    inner_learning_rate: float = _number(0.5, of=_RATE)
    embedding_inner_learning_rate: float | None = _number(None, of=_RATE)
    order: int = _number(2, of=_ORDER)
    adapt_embeddings: bool | None = None
    overlap: str = _word("adapted", of=allowed.OVERLAPS)
    learn_rates: bool = False
    look_ahead: bool = True
    epochs: int = _of_model(_AT_LEAST_1)
    optimizer: str = "adam"
    learning_rate: float = _of_model(_RATE)
    weight_decay: float | None = _number(None, of=_RATE)
    row_learning_rate: float = _of_model(_RATE)
    decay: str = _of_model(words=allowed.DECAYS)
    row_shrinkage: float = _of_model(_RATE)
    non_finite: str = _word("raise", of=allowed.NON_FINITE)
    capacity: int | None = _number(None, of=_AT_LEAST_1)
    when_full: str = _word("evict", of=allowed.WHEN_FULL)
    admit_after: int = _number(1, of=_AT_LEAST_1)
    time_to_live: int | None = _number(None, of=_AT_LEAST_1)
    embedding_scale: float = _of_model(_FINITE)
    loss: str = _word("binary_crossentropy", of=allowed.LOSSES)
    label_centre: float | None = _number(None, of=_FINITE)
    label_scale: float | None = _number(None, of=_ABOVE_0)
    metrics: list[str] | None = None
    validate: bool = True
    checkpoint_every: int = _number(10, of=_AT_LEAST_1)
    checkpoint_every_steps: int | None = _number(None, of=_AT_LEAST_1)
    resume: bool = False
    checkpoint: str | None = None
    fall_back: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_metrics(self.metrics)
        if self.model == "dlrm":
            self._check_gradient_steps("dlrm does not adapt")
        if self.model == "factors":
            self._check_closed_form()
        elif self.loss != "ratings":
            for name in ("label_centre", "label_scale"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"train: expected --model factors or --loss ratings with {flag_of(name)}, "
                        f"got --model {self.model} and --loss {self.loss}. Leave it out."
                    )
        if self.resume and self.overwrite:
            raise ValueError("train: --resume and --overwrite exclude each other.")
        if not self.resume and (self.checkpoint is not None or self.fall_back):
            flag = "--fall-back" if self.checkpoint is None else "--checkpoint"
            raise ValueError(
                f"train: {flag} says where to go on: expected --resume with it. Add --resume, or "
                f"leave {flag} out."
            )

    def _check_closed_form(self) -> None:
        """Raises for an option that would have no effect on factors."""
        if self.loss == "ratings":
            raise ValueError(
                "train: expected --loss bce (clicks are predicted) or mse (labels are) with "
                "--model factors, which learns from ratings with both, got ratings. Leave it out."
            )
        self._check_gradient_steps("factors adapts in closed form")

    def _check_gradient_steps(self, reason: str) -> None:
        """Raises for an option of gradient steps that would have no effect."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _OF_GRADIENT_STEPS and value != field.default:
                raise ValueError(
                    f"train: {flag_of(field.name)} {value} is an option of gradient steps, and "
                    f"{reason}. Leave it out, or train another --model."
                )


_OF_GRADIENT_STEPS = (
    *("inner_steps", "inner_learning_rate", "embedding_inner_learning_rate", "order"),
    *("adapt_embeddings", "overlap", "learn_rates"),
)


def _check_metrics(names: list[str] | None) -> None:
    from gmeta_tf.evaluation.metrics import metric  # NumPy, for which --help need not wait

    for name in names or ():
        metric(name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OfRunOptions(_Options):
    """What reads a trained run.

    Attributes:
        run: the folder of a run of `gmeta-tf train`.
        records: where the run's records are now; None is where they were.
        checkpoint: the name of the checkpoint to load, such as epoch-000003; None is the newest.
        fall_back: where that one is damaged, load the newest earlier one that is not.
    """

    run: str
    records: str | None = None
    checkpoint: str | None = None
    fall_back: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(_OfRunOptions):
    """Evaluates a run on tasks that it has not seen, adapted and unadapted, beside a baseline.

    Attributes:
        split: the split of the run's records to evaluate on.
        support: the rows a task adapts on; None is the run's.
        in_time_order: adapt on a task's earlier rows and evaluate the later ones, or draw the rows
            it adapts on; None is the run's.
        metrics: what to report; None is the run's.
        seed: of the draw of support rows.
        item: the fields whose keys the baseline counts, each alone; the best one is reported. None
            tries all categorical fields.
        train_split: the split that the baseline counts on.
        json: print one JSON line and nothing else.
    """

    split: str = "test"
    support: int | None = _number(None, of=_AT_LEAST_1)
    in_time_order: bool | None = None
    metrics: list[str] | None = None
    seed: int = 0
    item: list[str] | None = None
    train_split: str = "train"
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_metrics(self.metrics)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidatesOptions(_OfRunOptions):
    """Names the items to ask a new task about first: the evidence candidates of MeLU.

    A label of such an item moves a task's weights much, and many tasks have one. For runs whose
    dense weights adapt by gradient steps (melu, maml_dlrm), in one process.

    Attributes:
        field: the field of the items.
        top: how many to name, at most.
        split: the split whose rows are read.
        json: print one JSON line and nothing else.
    """

    field: str = "item"
    top: int = _number(20, of=_AT_LEAST_1)
    split: str = "train"
    json: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(_OfRunOptions):
    """Writes a run's model as a SavedModel of stock TensorFlow ops, in one process.

    Attributes:
        output: the SavedModel folder; None is `saved_model` in the run's folder.
    """

    output: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions(ReaderFlags):
    """Predicts raw query rows with an exported model, after adapting to raw support rows.

    Attributes:
        saved_model: what `gmeta-tf export` wrote.
        query: a CSV, TSV, JSON lines or Parquet file of the rows to predict: the columns of the
            task and of the fields.
        output: the CSV file to write: the query rows and a column `prediction`, in the same order;
            where tasks adapt in closed form `deviation` too, the standard deviation of the label.
        support: a file of labelled rows of the same tasks; tasks without any are predicted with
            the shared values. None adapts nothing.
        tasks: how many tasks to predict at once.
    """

    saved_model: str
    query: str
    output: str
    support: str | None = None
    tasks: int = _number(64, of=_AT_LEAST_1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(_OfRunOptions):
    """Makes one HTML page of a run: curves, the evaluation, and what it does task by task.

    The page needs no network and nothing beside it. JSON with all of its figures and the pictures
    as PNG are written beside it. In one process; needs `pip install 'gmeta_tf[report]'`.

    Attributes:
        against: the folder of another run, to put beside it.
        output: the page to write; None is `report.html` in the run's folder.
        split: the split that was evaluated.
        measure: load the model and predict the split, for what its tasks gain one by one, the curve
            over support rows and calibration. Otherwise only the run's files are read, which takes
            a second or two.
        seed: of the draw of support rows.
    """

    against: str | None = None
    output: str | None = None
    split: str = "test"
    measure: bool = True
    seed: int = _number(0, of=_SEED)
