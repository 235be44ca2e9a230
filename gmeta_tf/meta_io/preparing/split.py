"""Which rows are held out: of some tasks, from some time on, or both."""

from __future__ import annotations

import dataclasses
import fractions
import math
from typing import Literal

import numpy as np

from gmeta_tf.allowed import SPLITS_BY, check_word

__all__ = ["SPLITS", "Split"]

SPLITS = ("train", "test", "valid")


@dataclasses.dataclass(frozen=True)
class Split:
    """Which rows are held out.

    By `"task"`: whole tasks, so that a held-out task is a cold one. By `"time"`: all rows from a
    time on; train, valid and test follow one another, and rows of one time stay together. By
    `"both"`: the test is the rows of held-out tasks from that time on, and training has the rows
    of the other tasks before it (before the validation's time, if there is one); valid is the rows
    of its own tasks in its own stretch of time. All other rows are left out.

    Attributes:
        test_fraction: the share of the split "test", rounded up: of the tasks, of the rows by
            time, or of each.
        valid_fraction: the share of the split "valid", rounded up; with 0 there is no such split.
        seed: of the permutation that draws tasks.
        by: "task", "time" or "both".

    Raises:
        ValueError: a fraction outside [0, 1), or another `by`.
    """

    test_fraction: float = 0.2
    valid_fraction: float = 0.0
    seed: int = 0
    by: Literal["task", "time", "both"] = "task"

    def __post_init__(self) -> None:
        for name in ("test_fraction", "valid_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"Split: expected {name} to be at least 0 and below 1, "
                    f"got {getattr(self, name)}."
                )
        check_word("Split: by", self.by, SPLITS_BY)

    @property
    def names(self) -> tuple[str, ...]:
        """The splits that are written."""
        return SPLITS if self.valid_fraction > 0 else SPLITS[:2]

    @property
    def by_task(self) -> bool:
        """Whether tasks are held out."""
        return self.by in ("task", "both")

    @property
    def by_time(self) -> bool:
        """Whether rows from a time on are held out."""
        return self.by in ("time", "both")

    def counts(self, total: int) -> tuple[int, int]:
        """How many of so many tasks or rows are for test and for valid."""
        # As decimals: in floats 0.07 of 100 tasks is more than 7, which would round up to 8.
        num_test, num_valid = (
            math.ceil(fractions.Fraction(str(fraction)) * total)
            for fraction in (self.test_fraction, self.valid_fraction)
        )
        return num_test, num_valid

    def assign(self, num_tasks: int) -> np.ndarray:
        """The split that each task is drawn to, int8 `[num_tasks]`: a position in `SPLITS`.

        Raises:
            ValueError: no task is left to train on.
        """
        splits = np.zeros(num_tasks, np.int8)
        if not self.by_task:
            return splits
        num_test, num_valid = self.counts(num_tasks)
        if num_test + num_valid >= num_tasks:
            raise ValueError(
                f"no task is left to train on: of {num_tasks} task(s), {num_test} are for test and "
                f"{num_valid} for valid. Lower the fractions or bring more tasks."
            )
        order = np.random.default_rng(self.seed).permutation(num_tasks)
        splits[order[:num_test]] = 1
        splits[order[num_test : num_test + num_valid]] = 2
        return splits

    def assign_more(self, num_tasks: int, generation: int) -> np.ndarray:
        """The splits of tasks that an appended log brings, as `assign`.

        Each is drawn on its own, since shares of a few tasks would round up to all of them.
        """
        drawn = np.random.default_rng([self.seed, generation]).random(num_tasks)
        splits = np.zeros(num_tasks, np.int8)
        if self.by_task:
            splits[drawn < self.test_fraction + self.valid_fraction] = 2
            splits[drawn < self.test_fraction] = 1
        return splits
