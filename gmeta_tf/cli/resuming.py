"""`gmeta-tf train --resume` with other options than before: which win, and which cannot change."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from gmeta_tf.allowed import LOSSES
from gmeta_tf.cli.options import TrainOptions, flag_of
from gmeta_tf.cli.run_files import read_config, records_path

__all__ = ["changed_options", "check_resumed", "describe_changes"]

_NOT_OF_TRAINING = ("run", "resume", "overwrite")
# The checkpoint holds what these made, so that another value would not take effect, or not fit.
_FIXED: tuple[str, ...] = (
    *(
        "model",
        "hidden",
        "heads",
        "task_fields",
        "width",
        "optimizer",
        "row_optimizer",
        "learn_rates",
        "rates_of",
    ),
    *("embedding_scale", "label_centre", "label_scale"),
)
_FIXED_WITH_LEARNED_RATES = (
    "inner_steps",
    "inner_learning_rate",
    "embedding_inner_learning_rate",
    "adapt_dense",
    "adapt_embeddings",
    "adapt_fields",
)


def changed_options(options: TrainOptions) -> dict[str, tuple[Any, Any]]:
    """The options that differ from those of the run's last training: name -> (earlier, now).

    Empty where there is no checkpoint to resume from.

    Raises:
        ValueError: the run's config.yaml cannot be read.
    """
    run = pathlib.Path(options.run)
    if not options.resume or not any((run / "checkpoint").glob("*/manifest.json")):
        return {}
    earlier = read_config(run)
    values = {
        field.name: (_plain(earlier, field.name), _plain(options, field.name))
        for field in dataclasses.fields(TrainOptions)
        if field.name not in _NOT_OF_TRAINING
    }
    return {name: (before, now) for name, (before, now) in values.items() if before != now}


def check_resumed(options: TrainOptions) -> None:
    """Raises where the run cannot go on with the options.

    Raises:
        ValueError: names every option that cannot change, with its earlier value.
    """
    changes = changed_options(options)
    fixed = _FIXED + (_FIXED_WITH_LEARNED_RATES if options.learn_rates else ())
    wrong = {name: change for name, change in changes.items() if name in fixed}
    if wrong:
        flags = "; ".join(
            f"expected {flag_of(name)} {_word(before)}, got {_word(now)}"
            for name, (before, now) in wrong.items()
        )
        raise ValueError(
            f"{options.run} cannot go on with other options than its checkpoint was made with: "
            f"{flags}. Give the earlier values, or begin another --run."
        )


def describe_changes(changes: dict[str, tuple[Any, Any]]) -> list[str]:
    """A line for each option that changed.

    >>> describe_changes({"learning_rate": (0.001, 0.25)})
    ['--learning-rate: 0.25, was 0.001']
    """
    return [
        f"{flag_of(name)}: {_word(now)}, was {_word(before)}"
        for name, (before, now) in changes.items()
    ]


def _plain(options: TrainOptions, name: str) -> Any:
    """An option's value, the same for all ways to say it."""
    if name == "records":
        return records_path(options)
    value = getattr(options, name)
    if name in ("loss", "inner_loss"):
        return LOSSES.get(value)
    return value.lower() if name == "optimizer" else value


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
