"""The options of `gmeta-tf evaluate`, `report`, `export`, ...: of what a run left."""

from __future__ import annotations

import dataclasses
import math

from gmeta_tf.cli.data_options import ReaderFlags
from gmeta_tf.cli.option_fields import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    PORT,
    SEED,
    Options,
    check_metric_names,
    flag_of,
    number,
)

__all__ = [
    "ApplyDeltaOptions",
    "CandidatesOptions",
    "EvaluateOptions",
    "ExportOptions",
    "PlayOptions",
    "PredictOptions",
    "ReportOptions",
    "ServeOptions",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OfRunOptions(Options):
    """What reads a trained run.

    Attributes:
        run: the folder of a run of `gmeta-tf train`.
        records: where the run's records are now; None is where they were.
        checkpoint: the name of the checkpoint to load, such as epoch-000003; None is the best by
            the validation, if `train` had patience or choose_by, and otherwise the newest.
        fall_back: where that one is damaged, load the newest other one that is not.
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
        draws: evaluate so many draws of the support rows, of the seed and the ones after it, and
            report the mean of each figure.
        bootstrap: give 95 % intervals of each figure, and of adapted less unadapted, from so many
            samples of the tasks, drawn with replacement; 0 gives none.
        support_sizes: evaluate with each of these numbers of support rows, too, 0 among them if it
            is given, on the query rows that the largest leaves. A larger one has the rows of a
            smaller one.
        inner_steps_curve: evaluate with each of these numbers of inner steps, too, where tasks
            adapt by gradient steps.
        by: a field; give the figures for each of its ten most common values, too.
        calibration: compare predictions to labels in so many bins of equal width, too; for
            predictions that are probabilities.
        catalogue: a field of items, such as "item"; rank all its values for each task, too, but for
            those that the task is known to have: recall@k, ndcg@k and the mean reciprocal rank
            (mrr) of the task's positive query rows, beside the order of the positives in training.
        top: k of that.
        negatives: rank the positives among so many drawn values only; None is all. Such figures are
            larger than those of all values, and may order models otherwise.
        item: the fields whose keys the baseline counts, each alone; the best one is reported. None
            tries all categorical fields.
        train_split: the split that the baseline counts on.
        json: print one JSON line and nothing else.
    """

    split: str = "test"
    support: int | None = number(None, of=AT_LEAST_1)
    in_time_order: bool | None = None
    metrics: list[str] | None = None
    seed: int = 0
    draws: int = number(1, of=AT_LEAST_1)
    bootstrap: int = number(0, of=AT_LEAST_0)
    support_sizes: list[int] | None = None
    inner_steps_curve: list[int] | None = None
    by: str | None = None
    calibration: int | None = number(None, of=AT_LEAST_1)
    catalogue: str | None = None
    top: int = number(10, of=AT_LEAST_1)
    negatives: int | None = number(None, of=AT_LEAST_1)
    item: list[str] | None = None
    train_split: str = "train"
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_metric_names(self.metrics)
        if self.negatives is not None and self.catalogue is None:
            raise ValueError(
                f"evaluate: --negatives {self.negatives} are values of a catalogue: expected "
                "--catalogue FIELD with it. Add it, or leave --negatives out."
            )
        for name in ("support_sizes", "inner_steps_curve"):
            points = getattr(self, name)
            if points is None:
                continue
            if not points or min(points) < 0 or len(set(points)) < len(points):
                raise ValueError(
                    f"evaluate: expected {flag_of(name)} of at least 0, each once, got "
                    f"{' '.join(map(str, points)) or 'none'}. Give such as 0 1 3 5."
                )


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
    top: int = number(20, of=AT_LEAST_1)
    split: str = "train"
    json: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(_OfRunOptions):
    """Writes a run's model as a SavedModel of stock TensorFlow ops, in one process.

    Attributes:
        output: the SavedModel folder; None is `saved_model` in the run's folder, or `delta`.
        since: a checkpoint whose export is served: the name of one of the run's, or its folder.
            Only what has changed since is written, as a delta for `gmeta-tf apply-delta`.
        versions: write the next version of a folder of versions, as TensorFlow Serving reads them,
            in place of `output`.
        keep: how many versions to keep there; None keeps all.
        look_up: fields, such as the item: what the schema's tables_to_join give to them goes into
            the model, and requests do without. None has requests carry every field.
        warm_up: add requests that TensorFlow Serving answers before it serves the model, so that
            the first ones of others are not slow.
    """

    output: str | None = None
    since: str | None = None
    versions: str | None = None
    keep: int | None = number(None, of=AT_LEAST_1)
    look_up: list[str] | None = None
    warm_up: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        others = {"--output": self.output, "--since": self.since}
        for flag, given in others.items():
            if self.versions is not None and given is not None:
                raise ValueError(
                    f"export: expected --versions, which writes a whole export to the next number, "
                    f"without {flag}, got both. Leave one out."
                )
        if self.keep is not None and self.versions is None:
            raise ValueError(
                "export: expected --keep with --versions, got it without. Give the folder of "
                "versions, or leave it out."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApplyDeltaOptions(Options):
    """Makes the next version of an exported model of a delta: equal to its full export.

    Attributes:
        saved_model: the exported model that the delta leads on from; or a folder of versions, whose
            newest it is.
        delta: what `gmeta-tf export` wrote with `since`.
        output: the folder to write; None is the next version of the folder of versions.
        keep: how many versions to keep in a folder of versions; None keeps all.
    """

    saved_model: str
    delta: str
    output: str | None = None
    keep: int | None = number(None, of=AT_LEAST_1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(_OfRunOptions):
    """Makes one HTML page of a run: curves, the evaluation, and what it does task by task.

    The page needs no network and nothing beside it. JSON with all of its figures and the pictures
    as PNG are written beside it. In one process; needs `pip install 'gmeta_tf[report]'`.

    Attributes:
        against: the folder of another run, to put beside it.
        output: the page to write; None is `report.html` in the run's folder.
        split: the split that was evaluated.
        measure: load the model and predict the split, for what its tasks gain one by one, the
            curves over support rows and inner steps, and calibration. Otherwise only the run's
            files are read, which takes a second or two.
        by: a field; show the quality for each of its ten most common values, too.
        seed: of the draw of support rows.
        progress: show the stages, on a terminal.
    """

    against: str | None = None
    output: str | None = None
    split: str = "test"
    measure: bool = True
    by: str | None = None
    seed: int = number(0, of=SEED)
    progress: bool = True


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
        tables: where the tables that the schema joins lie now, each as NAME=PATH; others are where
            `prepare` read them. They are read where the rows lack a column that they give.
        tasks: how many tasks to predict at once.
    """

    saved_model: str
    query: str
    output: str
    support: str | None = None
    tables: list[str] | None = None
    tasks: int = number(64, of=AT_LEAST_1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeOptions(Options):
    """Serves an exported model with TensorFlow Serving's REST API, to try it with.

    Answers POST /v1/models/NAME:predict and GET /v1/models/NAME/metadata. A newer version in a
    folder of versions, or an export that takes the place of the one that is served, is loaded
    beside it and then answers.

    Attributes:
        saved_model: an exported model, or a folder of versions, whose newest one is served.
        port: of the REST API; 0 takes any that is free.
        host: the address to listen on; 0.0.0.0 is every one of the machine's.
        name: of the model in paths; None is the folder's name.
        poll_seconds: how often to look for a newer version.
    """

    saved_model: str
    port: int = number(8501, of=PORT)
    host: str = "127.0.0.1"
    name: str | None = None
    poll_seconds: float = number(1.0, of=ABOVE_0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlayOptions(ReaderFlags):
    """Opens a page on which you are the cold-start user of an exported model.

    You rate items by their names, and with each rating the recommendations change: it goes through
    the inner loop in the served graph. Beside them stands what anybody is recommended. In one
    process, for this machine's own browser; needs `pip install 'gmeta_tf[play]'`.

    Attributes:
        saved_model: what `gmeta-tf export` wrote.
        names: a CSV, TSV, JSON lines or Parquet file with a line for each item: its value, its
            name, and the other columns of the schema that describe items. None takes the films of
            a MovieLens model, the table that the schema joins to the items, or else the values of
            the item field themselves.
        name_column: the column of `names` with what you read; None is `title` or `name`, or else
            the item's value.
        item: the field of the items; None is the only one that it can be, or the one that the
            schema joins a table to.
        key: the column of `names` with the item's value, where it is not called as in the schema.
        movielens: where the films of a MovieLens model are, as `prepare` takes it; None is
            "download".
        person: what is said of you at first, each as FIELD=VALUE, such as age=31; the page asks
            for all fields that do not describe items.
        ratings: what an item can be rated with, as labels of the raw data. None is 1 to 5 for
            MovieLens, no and yes at the schema's `positive_from`, and else 0 and 1.
        most: show and rank so many items, the most frequent ones in training.
        top: how many items to recommend.
        port: of the page; 0 takes any that is free.
        host: the address to listen on. The page has no passwords.
    """

    saved_model: str
    names: str | None = None
    name_column: str | None = None
    item: str | None = None
    key: str | None = None
    movielens: str | None = None
    person: list[str] | None = None
    ratings: list[float] | None = None
    most: int = number(2000, of=AT_LEAST_1)
    top: int = number(10, of=AT_LEAST_1)
    port: int = number(8600, of=PORT)
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.ratings or []
        are_labels = len(set(given)) == len(given) >= 2 and all(map(math.isfinite, given))
        if self.ratings is not None and not are_labels:
            raise ValueError(
                "play: expected --ratings of at least two finite labels, each once, got "
                f"{' '.join(f'{one:g}' for one in given) or 'none'}. Give such as 1 2 3 4 5."
            )
        if self.names is not None and self.movielens is not None:
            raise ValueError("play: expected either --names or --movielens, got both.")
        for flag, column in (("--name-column", self.name_column), ("--key", self.key)):
            if column is not None and self.names is None:
                raise ValueError(
                    f"play: {flag} {column} is a column of a file: expected --names FILE with it."
                )
        if self.key is not None and self.item is None:
            raise ValueError(
                f"play: expected --item FIELD with --key {self.key}, to say whose values they are."
            )
