"""What a run leaves behind."""

from __future__ import annotations

import json
import pathlib
import statistics
import time
from typing import Any

import keras
import tensorflow as tf

from gmeta_tf.checkpoint import save_checkpoint

__all__ = ["RunFolder"]


class RunFolder(keras.callbacks.Callback):
    """Writes a run's folder while `fit` goes on. Give it to every rank; rank 0 writes what is one.

        log.txt                  one line an epoch
        tensorboard/             scalars of every epoch
        checkpoint/epoch-0003/   after every `checkpoint_every` epochs and after the last
        metrics.json             the last epoch's losses and metrics, and the speed

    Attributes:
        path: the folder.
        samples_per_second: support and query rows of all ranks over the seconds spent in training
            steps; the median over epochs without the first, which traces.
    """

    def __init__(
        self,
        path: str | pathlib.Path,
        *,
        samples_per_epoch: int,
        checkpoint_every: int = 1,
        keep: int = 2,
    ) -> None:
        """Makes the callback; nothing is written before training begins.

        Args:
            path: the folder, on a file system that all ranks see.
            samples_per_epoch: `TaskBatches.samples_per_epoch`.
            checkpoint_every: epochs between checkpoints.
            keep: how many checkpoints to keep.

        Raises:
            ValueError: `checkpoint_every` or `keep` below 1.
        """
        super().__init__()
        if checkpoint_every < 1 or keep < 1:
            raise ValueError(
                "RunFolder: expected checkpoint_every and keep of at least 1, got "
                f"{checkpoint_every} and {keep}."
            )
        self.path = pathlib.Path(path)
        self._samples_per_epoch = samples_per_epoch
        self._checkpoint_every = checkpoint_every
        self._keep = keep
        self._speeds: list[float] = []
        self._began = 0.0
        self._seconds: float | None = None
        self._epoch = 0
        self._saved_epoch: int | None = None

    @property
    def samples_per_second(self) -> float:
        """See the class; NaN before the first epoch has ended."""
        later = self._speeds[1:] or self._speeds
        return statistics.median(later) if later else float("nan")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._is_chief:
            self.path.mkdir(parents=True, exist_ok=True)
            self._scalars = tf.summary.create_file_writer(str(self.path / "tensorboard"))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch, self._began, self._seconds = epoch, time.perf_counter(), None

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        # Validation is not training: the epoch's clock stops where it begins.
        self._seconds = time.perf_counter() - self._began

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = self._seconds or time.perf_counter() - self._began
        self._speeds.append(self._samples_per_epoch / seconds)
        values = {name: float(value) for name, value in (logs or {}).items()}
        values["samples_per_second"] = self._speeds[-1]
        if self._is_chief:
            self._write(epoch, values)
        if (epoch + 1) % self._checkpoint_every == 0:
            self._save(epoch, values)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        if self._saved_epoch != self._epoch:
            self._save(self._epoch, values)
        if self._is_chief:
            self._scalars.close()
            values |= {"epochs": self._epoch + 1, "samples_per_second": self.samples_per_second}
            (self.path / "metrics.json").write_text(json.dumps(values, indent=2))

    @property
    def _is_chief(self) -> bool:
        return self.model.world.is_chief

    def _write(self, epoch: int, values: dict[str, float]) -> None:
        line = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        with open(self.path / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"epoch {epoch + 1}  {line}\n")
        with self._scalars.as_default(step=epoch + 1):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._scalars.flush()

    def _save(self, epoch: int, values: dict[str, float]) -> None:
        folder = self.path / "checkpoint"
        save_checkpoint(self.model, folder / f"epoch-{epoch + 1:06d}", epoch=epoch + 1, logs=values)
        self._saved_epoch = epoch
        if self._is_chief:
            self._drop_old(folder)

    def _drop_old(self, folder: pathlib.Path) -> None:
        whole = sorted(manifest.parent for manifest in folder.glob("epoch-*/manifest.json"))
        for path in whole[: -self._keep]:
            # The manifest goes first: without it what is left is no checkpoint.
            (path / "manifest.json").unlink()
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
