"""Which epoch of a run is the best by its validation, and for how long no better one has come."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from gmeta_tf.evaluation.metrics import metric

__all__ = ["BestEpoch"]


@dataclasses.dataclass(frozen=True)
class BestEpoch:
    """The best epoch so far: a value, kept in each checkpoint, so that a resumed run counts on.

    Attributes:
        metric: what is compared, of adapted tasks of the validation split.
        value: its value in the best epoch; None before an epoch had one.
        epoch: the best epoch, counted from 1; 0 before there is one.
        last: the last epoch that was compared.
        epochs_without_better: how many were compared since the best one.

    Example:
        >>> best = BestEpoch("auc").after(1, 0.70).after(2, 0.72).after(3, 0.71)
        >>> best.epoch, best.epochs_without_better, best.is_over(patience=1)
        (2, 1, True)
        >>> best.describe()
        'epoch 2 has the best auc of the validation split, 0.7200, of 3 epochs'
    """

    metric: str
    value: float | None = None
    epoch: int = 0
    last: int = 0
    epochs_without_better: int = 0

    def __post_init__(self) -> None:
        metric(self.metric)

    def after(self, epoch: int, value: float) -> BestEpoch:
        """The best once an epoch is compared; of equal ones the first stays, and NaN never wins."""
        if not math.isfinite(value) or (self.value is not None and not self._is_better(value)):
            waited = self.epochs_without_better + 1
            return dataclasses.replace(self, last=epoch, epochs_without_better=waited)
        return BestEpoch(self.metric, value, epoch, epoch)

    def _is_better(self, value: float) -> bool:
        if self.value is None:
            return True
        sign = 1 if metric(self.metric).is_better_when_larger else -1
        return sign * (value - self.value) > 0

    def is_over(self, patience: int | None) -> bool:
        """Whether training ends here; None never ends it."""
        return patience is not None and self.epochs_without_better >= patience

    @property
    def checkpoint(self) -> str | None:
        """The name of the best epoch's checkpoint."""
        return f"epoch-{self.epoch:06d}" if self.epoch else None

    def describe(self) -> str:
        """Which epoch, and why, for a person."""
        if self.value is None:
            return f"no epoch of {self.last} has a number for {self.metric} of the validation split"
        return (
            f"epoch {self.epoch} has the best {self.metric} of the validation split, "
            f"{self.value:.4f}, of {self.last} epochs"
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` undoes it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BestEpoch:
        """Reads what `to_json` gave."""
        return cls(**values)
