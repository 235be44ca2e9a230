"""What a run leaves behind."""

from __future__ import annotations

import pathlib
import statistics
import time
from typing import Any

import keras
import tensorflow as tf

from gmeta_tf.evaluation.json_report import json_report, without_nan
from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.saving.checkpoint import save_checkpoint

__all__ = ["RunFolder"]


class RunFolder(keras.callbacks.Callback):
    """Writes a run's folder during `fit`. Give it to every rank; rank 0 writes the shared files.

        log.txt                    one line an epoch
        tensorboard/               scalars of every epoch
        checkpoint/epoch-000003/   after every `checkpoint_every` epochs and after the last, and
                                   within an epoch as epoch-000003-step-000500
        metrics.json               the last epoch's losses and metrics, and the speed

    Each epoch's values have `input_wait`: the share of rank 0's training time that its steps spent
    waiting for `TaskBatches`. Above a few per cent the input bounds the speed. For a dynamic table
    they have its counts over all ranks: `<table>_occupancy`, `<table>_evictions`, and so on
    (`DynamicShard.metrics`).

    Attributes:
        path: the folder.
        samples_per_second: support and query rows of all ranks over the seconds spent in training
            steps; the median over epochs without the first, which traces.
    """

    def __init__(
        self,
        path: str | pathlib.Path,
        batches: TaskBatches,
        *,
        checkpoint_every: int = 1,
        checkpoint_every_steps: int | None = None,
        keep: int = 2,
    ) -> None:
        """Makes the callback; nothing is written before training begins.

        Args:
            path: the folder, on a file system that all ranks see.
            batches: those that `fit` gets.
            checkpoint_every: epochs between checkpoints.
            checkpoint_every_steps: steps between checkpoints within an epoch; None makes none.
            keep: how many checkpoints to keep.

        Raises:
            ValueError: `checkpoint_every`, `checkpoint_every_steps` or `keep` below 1, or `path` is
                not a folder.
        """
        super().__init__()
        steps = [] if checkpoint_every_steps is None else [checkpoint_every_steps]
        if min(checkpoint_every, keep, *steps) < 1:
            raise ValueError(
                "RunFolder: expected checkpoint_every, checkpoint_every_steps and keep of at "
                f"least 1, got {checkpoint_every}, {checkpoint_every_steps} and {keep}."
            )
        self.path = pathlib.Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"RunFolder: expected {self.path} to be a folder or new, got a file.")
        self._batches = batches
        self._checkpoint_every = checkpoint_every
        self._checkpoint_every_steps = checkpoint_every_steps
        self._keep = keep
        self._speeds: list[float] = []
        self._began = 0.0
        self._seconds: float | None = None
        self._input_seconds = 0.0
        self._epoch = 0
        self._steps = 0
        self._saved: tuple[int, int] | None = None

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
        self._epoch, self._steps = epoch, 0
        self._began, self._seconds = time.perf_counter(), None
        self._input_seconds = float(self.model.input_seconds)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        before, self._steps = self._steps, batch + 1
        every = self._checkpoint_every_steps
        # With several steps an execution Keras calls after the last of them alone.
        if every and before // every < self._steps // every and self._steps < self._steps_in_epoch:
            progress = self._batches.progress(self._epoch, self._steps)
            # Over all segments, so that names go on growing at another W.
            steps = sum(segment.steps for segment in progress.done)
            self._save(self._epoch, steps, {}, progress=progress.to_json())

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        # Validation is not training: the epoch's clock stops where it begins.
        self._seconds = time.perf_counter() - self._began

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = self._seconds or time.perf_counter() - self._began
        share = self._steps / self._batches.steps_per_epoch
        self._speeds.append(share * self._batches.samples_per_epoch / seconds)
        waited = float(self.model.input_seconds) - self._input_seconds
        values = {name: float(value) for name, value in (logs or {}).items()}
        values |= {"samples_per_second": self._speeds[-1], "input_wait": waited / seconds}
        for table, counts in self.model.embedding.metrics().items():
            values |= {f"{table}_{name}": float(count) for name, count in counts.items()}
        if self._is_chief:
            self._write(epoch, values)
        if (epoch + 1) % self._checkpoint_every == 0:
            self._save(epoch + 1, 0, values)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        if self._is_chief:
            self._scalars.close()
        if not self._speeds:
            return  # there was nothing left to train, and what an earlier run wrote stays
        if self._saved != (self._epoch + 1, 0):
            self._save(self._epoch + 1, 0, values)
        if self._is_chief:
            values |= {"epochs": self._epoch + 1, "samples_per_second": self.samples_per_second}
            (self.path / "metrics.json").write_text(json_report(values, indent=2))

    @property
    def _is_chief(self) -> bool:
        return self.model.world.is_chief

    @property
    def _steps_in_epoch(self) -> int:
        begin = self._batches.begin
        goes_on = bool(begin.done) and begin.epoch == self._epoch
        return self._batches.steps_at_begin if goes_on else self._batches.steps_per_epoch

    def _write(self, epoch: int, values: dict[str, float]) -> None:
        line = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        with open(self.path / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"epoch {epoch + 1}  {line}\n")
        with self._scalars.as_default(step=epoch + 1):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._scalars.flush()

    def _save(self, epochs: int, steps: int, values: dict[str, float], **details: Any) -> None:
        """Writes a checkpoint after so many epochs and steps of the next one."""
        folder = self.path / "checkpoint"
        name = f"epoch-{epochs:06d}" + (f"-step-{steps:06d}" if steps else "")
        logs = without_nan(values)
        save_checkpoint(self.model, folder / name, epoch=epochs, logs=logs, **details)
        self._saved = (epochs, steps)
        if self._is_chief:
            self._drop_old(folder)

    def _drop_old(self, folder: pathlib.Path) -> None:
        complete = sorted(manifest.parent for manifest in folder.glob("epoch-*/manifest.json"))
        for path in complete[: -self._keep]:
            # The manifest goes first: without it the rest does not count as a checkpoint.
            (path / "manifest.json").unlink()
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
