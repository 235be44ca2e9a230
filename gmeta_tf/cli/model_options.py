"""What `gmeta-tf train` and `plan` share, and `plan`'s own: the model, its tables and its steps."""

from __future__ import annotations

import dataclasses
from typing import Any

from gmeta_tf import allowed
from gmeta_tf.cli.option_fields import (
    AT_LEAST_1,
    SEED,
    Options,
    number,
    of_model,
    required_number,
    word,
)

__all__ = ["BEFORE_THEY_WERE", "PlanOptions", "StepOptions", "names_of_model"]

# What suits a model, found on other draws of cold users than those that the figures are told of:
# benchmarks/search_log.jsonl.
_GRADIENT_STEPS: dict[str, Any] = {
    "width": 16,
    "row_optimizer": "lazy_adam",
    "query": 40,
    "heads": 1,
    "epochs": 20,
    "learning_rate": 0.002,
    "row_learning_rate": 0.003,
    "row_shrinkage": 0.0,
    "embedding_scale": 0.1,
    "decay": "cosine",
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


# What options meant before runs had them: rates did not fall before there was a choice.
BEFORE_THEY_WERE: dict[str, Any] = {"decay": "none"}


def names_of_model(model: str) -> list[str]:
    """The options whose default depends on the model."""
    return list(_DEFAULTS_OF_MODEL.get(model, ()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions(Options):
    """What `train` and `plan` share: the records, and all that decides what a step sends.

    Attributes:
        records: what `gmeta-tf prepare` made.
        model: the learner, "melu", "maml_dlrm", "mmaml", "cbml", "factors", or "dlrm", which does
            not adapt; docs/models.md tells which to choose.
        hidden: the widths of the hidden layers; factors has none.
        heads: the models side by side whose predictions are averaged; they share the width evenly,
            so that 4 of width 16 are --heads 4 --width 64. None is 1, and of factors 4.
        task_fields: of factors, the fields that describe the task, such as a user's age. None finds
            those that are the same in all rows of each task.
        width: D, the numbers in an embedding row; None is 16, and of factors 24.
        row_optimizer: "adagrad", "row_wise_adagrad", "lazy_adam", "ftrl" or "sgd", for embedding
            rows; it decides how many slots a row has. None is lazy_adam.
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
    model: str = word("melu", of=allowed.LEARNERS)
    hidden: list[int] = dataclasses.field(
        default_factory=lambda: [64, 64], metadata={"range": AT_LEAST_1}
    )
    heads: int = of_model(AT_LEAST_1)
    task_fields: list[str] | None = None
    width: int = of_model(AT_LEAST_1)
    row_optimizer: str = of_model(words=allowed.ROW_OPTIMIZERS)
    wire: str = word("float32", of=allowed.WIRES)
    replicate: str = "auto"
    tasks: int = number(32, of=AT_LEAST_1)
    support: int = number(10, of=AT_LEAST_1)
    query: int = of_model(AT_LEAST_1)
    every_row: bool = False
    in_time_order: bool = False
    buckets: int = number(1, of=AT_LEAST_1)
    seed: int = number(0, of=SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == "factors":
            if self.hidden != [64, 64]:
                raise ValueError(
                    f"{self._command()}: expected no --hidden with --model factors, which has no "
                    "hidden layers. Leave it out."
                )
            return
        if self.task_fields:
            raise ValueError(
                f"{self._command()}: expected --model factors with --task-fields, got --model "
                f"{self.model}. Leave --task-fields out, or train factors."
            )
        if self.width % self.heads:
            raise ValueError(
                f"{self._command()}: expected --width to be a multiple of --heads {self.heads}, "
                f"which share it evenly, got --width {self.width}. Four heads of width 16 are "
                "--heads 4 --width 64."
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

    world_size: int = required_number(of=AT_LEAST_1)
    keys_from: str = word("records", of=allowed.KEYS_FROM)
    steps: int = number(20, of=AT_LEAST_1)
    json: bool = False
