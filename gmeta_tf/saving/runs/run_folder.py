"""What a run leaves behind."""

from __future__ import annotations

import importlib.util
import json
import logging
import pathlib
import shlex
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.evaluation.json_report import json_report, without_nan
from gmeta_tf.meta_io.batches.task_batches import TaskBatches
from gmeta_tf.meta_io.preparing.work_folder import sweep_all, work_folder
from gmeta_tf.meta_io.records.fingerprint import fingerprint_of
from gmeta_tf.saving.checkpoints.best_epoch import BestEpoch
from gmeta_tf.saving.checkpoints.checkpoint import (
    checked_checkpoint,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from gmeta_tf.saving.checkpoints.manifest import MANIFEST, read_manifest
from gmeta_tf.saving.runs.exported import exported_checkpoint
from gmeta_tf.saving.runs.heartbeat import Heartbeat
from gmeta_tf.saving.runs.preemption import PREEMPTED, Preemption
from gmeta_tf.saving.runs.run_lock import RunLock
from gmeta_tf.saving.writing import named_if_full, remove_left_beside, write_whole

__all__ = ["RunFolder"]

_LOG = logging.getLogger(__name__)


class RunFolder(keras.callbacks.Callback):
    """Writes a run's folder during `fit`. Give it to every rank; rank 0 writes the shared files.

        log.txt                    one line an epoch
        tensorboard/               scalars of every epoch, where TensorBoard is installed
        checkpoint/epoch-000003/   after every `checkpoint_every` epochs and after the last, and
                                   within an epoch as epoch-000003-step-000500
        metrics.json               the last epoch's losses and metrics, and the speed
        .lock                      while it trains: the process that does

    One process at a time trains in a folder; of a second one `fit` raises. What a killed run left
    is removed when training begins, or where it is not known to be ours named in the log, with the
    command that removes it.

    Each epoch's values have `input_wait`: the share of rank 0's training time that its steps spent
    waiting for `TaskBatches`. Above a few per cent the input bounds the speed. For a dynamic table
    they have its counts over all ranks: `<table>_occupancy`, `<table>_evictions`, and so on
    (`DynamicShard.metrics`).

    The checkpoint that was exported last is kept beside the newest: deltas begin there.

    With `best`, each epoch is compared by a metric of the validation data. The best one's
    checkpoint is kept beside the newest; each checkpoint says which it is, and what counts on when
    the run is resumed. `restore_best` gives the model the best epoch's weights and rows.

    With `preemptible`, SIGTERM or SIGUSR1 at any rank has all ranks save a checkpoint after the
    same step, about a second later, and end with status 75 (`SystemExit`).

    Attributes:
        path: the folder.
        best: the best epoch so far; None where epochs are not compared.
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
        best: BestEpoch | None = None,
        patience: int | None = None,
        preemptible: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes the callback; nothing is written before training begins.

        Args:
            path: the folder, on a file system that all ranks see.
            batches: those that `fit` gets.
            checkpoint_every: epochs between checkpoints.
            checkpoint_every_steps: steps between checkpoints within an epoch; None makes none.
            keep: how many checkpoints to keep.
            best: `BestEpoch(metric)`, or what a checkpoint to go on from says, compares epochs;
                `fit` then needs validation data in every epoch. None compares nothing.
            patience: with `best`, the epochs without a better one after which training ends, on
                all ranks together; None trains all epochs.
            preemptible: take SIGTERM and SIGUSR1 while training, as the class says.
            details: JSON values to keep in each checkpoint's manifest.

        Raises:
            ValueError: `checkpoint_every`, `checkpoint_every_steps`, `keep` or `patience` below 1,
                `patience` without `best`, or `path` is not a folder.
        """
        super().__init__()
        steps = [] if checkpoint_every_steps is None else [checkpoint_every_steps]
        if min(checkpoint_every, keep, *steps) < 1:
            raise ValueError(
                "RunFolder: expected checkpoint_every, checkpoint_every_steps and keep of at "
                f"least 1, got {checkpoint_every}, {checkpoint_every_steps} and {keep}."
            )
        if patience is not None and (patience < 1 or best is None):
            raise ValueError(
                "RunFolder: expected patience of at least 1, with best=BestEpoch(metric), got "
                f"patience={patience} and best={best}."
            )
        self.path = pathlib.Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"RunFolder: expected {self.path} to be a folder or new, got a file.")
        self._batches = batches
        self._checkpoint_every = checkpoint_every
        self._checkpoint_every_steps = checkpoint_every_steps
        self._keep = keep
        self.best = best
        self._patience = patience
        self._details = dict(details or {})
        self._lock: RunLock | None = None
        self._scalars: Any = None
        self._speeds: list[float] = []
        self._began = 0.0
        self._seconds: float | None = None
        self._input_seconds = 0.0
        self._epoch = 0
        self._steps = 0
        self._saved: tuple[int, int] | None = None
        self._heartbeat = Heartbeat()
        self._preemptible = preemptible
        self._preemption: Preemption | None = None
        self._leaves = False

    @property
    def samples_per_second(self) -> float:
        """See the class; NaN before the first epoch has ended."""
        later = self._speeds[1:] or self._speeds
        return statistics.median(later) if later else float("nan")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        on_chief(self._take, self.model.world, name="run_folder_begin")
        self._heartbeat.begin()
        if self._preemptible:
            self._preemption = Preemption(self.model.world)
            self._preemption.begin()

    def _take(self) -> None:
        """Makes the folder this process's; removes or names what a killed one left."""
        with named_if_full(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock.take(self.path)
        sweep_all(self.path / "checkpoint")
        if left := _unfinished(self.path):
            _LOG.warning(
                "left by a run that was killed, and not used: %s. To remove: rm -r -- %s",
                ", ".join(left),
                shlex.join(left),
            )
        self._details["records"] = fingerprint_of(self._batches.records)
        if importlib.util.find_spec("tensorboard") is None:
            _LOG.warning(
                "TensorBoard is not installed, so this run writes no scalars for it; log.txt has "
                "the values. To have both: pip install tensorboard"
            )
            return
        with named_if_full(self.path / "tensorboard"):
            self._scalars = tf.summary.create_file_writer(str(self.path / "tensorboard"))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch, self._steps = epoch, 0
        self._began, self._seconds = time.perf_counter(), None
        self._input_seconds = float(self.model.input_seconds)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        before, self._steps = self._steps, batch + 1
        self._heartbeat.step(self._steps - before)
        if self._preemption is not None and self._preemption.after_step():
            self._leaves = True
        every = self._checkpoint_every_steps
        # With several steps an execution Keras calls after the last of them alone.
        is_due = self._leaves or (every and before // every < self._steps // every)
        if is_due and self._steps < self._steps_in_epoch:
            progress = self._batches.progress(self._epoch, self._steps)
            # Over all segments, so that names go on growing at another W.
            steps = sum(segment.steps for segment in progress.done)
            self._save(self._epoch, steps, {}, progress=progress.to_json())
            if self._leaves:
                self._leave()

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._heartbeat.alive()

    def _leave(self) -> None:
        """Ends this rank, as all others do here, with a checkpoint that is whole."""
        assert self._preemption is not None
        self._preemption.end()
        if self.model.world.is_chief:
            print(
                f"preempted, and saved after {self._steps} steps of epoch {self._epoch + 1}: start "
                f"it again to go on (`gmeta-tf train --resume`); status {PREEMPTED}",
                file=sys.stderr,
                flush=True,
            )
        if self._lock is not None:
            self._lock.release()
        raise SystemExit(PREEMPTED)

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
        is_best = self.best is not None and self._compare(epoch + 1, values)
        on_chief(lambda: self._write(epoch, values), self.model.world, name="run_folder_log")
        if self._preemption is not None:
            self._leaves = self._preemption.agreed() or self._leaves
        if is_best or self._leaves or (epoch + 1) % self._checkpoint_every == 0:
            self._save(epoch + 1, 0, values)
        # A run that is at its end has nothing to go on with.
        if self._leaves and not self.model.stop_training and epoch + 1 < self.params["epochs"]:
            self._leave()

    def _compare(self, epoch: int, values: dict[str, float]) -> bool:
        """Whether this epoch is the best so far; ends training where none has been for too long."""
        assert self.best is not None
        name = f"val_{self.best.metric}_adapted"
        if name not in values:
            raise ValueError(
                f"RunFolder: expected {name} in each epoch's values, got {', '.join(values)}. Give "
                f"fit validation_data, and compile the metric {self.best.metric}."
            )
        before = self.best
        # Rank 0 decides, so that all ranks stop together whatever rounding does to their sums.
        after = on_chief(
            lambda: before.after(epoch, values[name]).to_json(),
            self.model.world,
            name="run_folder_best",
        )
        self.best = BestEpoch.from_json(after)
        if self.best.is_over(self._patience):
            self.model.stop_training = True
        return self.best.epoch == epoch

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        on_chief(self._close_scalars, self.model.world, name="run_folder_scalars")
        if self._speeds:  # otherwise nothing was left to train, and what an earlier run wrote stays
            self._end(values)
        else:
            on_chief(self._end_earlier, self.model.world, name="run_folder_metrics")
        if self._lock is not None:
            self._lock.release()
        if self._preemption is not None:
            self._preemption.end()

    def _end(self, values: dict[str, float]) -> None:
        if self._saved != (self._epoch + 1, 0):
            self._save(self._epoch + 1, 0, values)
        values |= {"epochs": self._epoch + 1, "samples_per_second": self.samples_per_second}
        if self.best is not None:
            values |= {"best_epoch": self.best.epoch}
        on_chief(
            lambda: write_whole(self.path / "metrics.json", json_report(values, indent=2)),
            self.model.world,
            name="run_folder_metrics",
        )

    def _end_earlier(self) -> None:
        """Does what is left to do for a run that was killed after its last checkpoint."""
        self._drop_old(self.path / "checkpoint")
        last, metrics = latest_checkpoint(self.path / "checkpoint"), self.path / "metrics.json"
        remove_left_beside(metrics)
        if last is None:
            return
        saved = read_manifest(last)["details"]
        if saved.get("epoch") in (None, _epochs_in(metrics)):
            return  # what that run wrote says more
        values = {**saved.get("logs", {}), "epochs": saved.get("epoch")}
        if self.best is not None:
            values |= {"best_epoch": self.best.epoch}
        write_whole(metrics, json_report(values, indent=2))

    def restore_best(self) -> None:
        """Gives the model the best epoch's dense weights, rows and optimizer; after `fit`.

        Every rank must call it. It is no part of `fit`, which ends once more where the rest of a
        stopped epoch ends and training goes on.

        Raises:
            ValueError: epochs are not compared, or none had a number.
        """
        if self.best is None or self.best.checkpoint is None:
            raise ValueError(
                "RunFolder.restore_best: expected RunFolder(best=BestEpoch(metric)) and an epoch "
                f"with a number for the metric, got {self.best}."
            )
        path = self.path / "checkpoint" / self.best.checkpoint
        restore_checkpoint(self.model, checked_checkpoint(path, self.model.world))

    def _close_scalars(self) -> None:
        if self._scalars is None:
            return
        with named_if_full(self.path / "tensorboard"):
            self._scalars.close()

    @property
    def _steps_in_epoch(self) -> int:
        begin = self._batches.begin
        goes_on = bool(begin.done) and begin.epoch == self._epoch
        return self._batches.steps_at_begin if goes_on else self._batches.steps_per_epoch

    def _write(self, epoch: int, values: dict[str, float]) -> None:
        line = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        with (
            named_if_full(self.path / "log.txt"),
            open(self.path / "log.txt", "a", encoding="utf-8") as log,
        ):
            log.write(f"epoch {epoch + 1}  {line}\n")
        if self._scalars is None:
            return
        with named_if_full(self.path / "tensorboard"), self._scalars.as_default(step=epoch + 1):
            for name, value in values.items():
                tf.summary.scalar(name, value)
            self._scalars.flush()

    def _save(self, epochs: int, steps: int, values: dict[str, float], **details: Any) -> None:
        """Writes a checkpoint after so many epochs and steps of the next one."""
        folder = self.path / "checkpoint"
        name = f"epoch-{epochs:06d}" + (f"-step-{steps:06d}" if steps else "")
        logs = without_nan(values)
        if self.best is not None:
            details["best"] = self.best.to_json()
        on_chief(self._check_lock, self.model.world, name="run_folder_lock")
        save_checkpoint(
            self.model, folder / name, epoch=epochs, logs=logs, **self._details, **details
        )
        self._saved = (epochs, steps)
        self._heartbeat.saved()
        on_chief(lambda: self._drop_old(folder), self.model.world, name="run_folder_dropped")

    def _check_lock(self) -> None:
        if self._lock is not None:
            self._lock.check()

    def _drop_old(self, folder: pathlib.Path) -> None:
        complete = sorted(manifest.parent for manifest in folder.glob(f"epoch-*/{MANIFEST}"))
        best = None if self.best is None else self.best.checkpoint
        # A delta needs what it begins at.
        spared = (best, exported_checkpoint(self.path))
        for path in complete[: -self._keep]:
            if path.name in spared:
                continue
            # Hidden at once, and removed then, or by the next run if this one is killed.
            with named_if_full(path), work_folder(path) as work:
                path.rename(work / "removed")


def _epochs_in(metrics: pathlib.Path) -> int | None:
    """The epochs that a run's metrics tell of; None where there are none to read."""
    try:
        found = json.loads(metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("epochs") if isinstance(found, dict) else None


def _unfinished(run: pathlib.Path) -> list[str]:
    """What killed processes of earlier versions left in a run folder, and half an overwriting."""
    left = [path for path in (run / "checkpoint").glob("*") if not (path / MANIFEST).exists()]
    left += (run / "checkpoint").glob("*.partial")
    left += run.glob(".overwritten-*")
    return sorted({str(path) for path in left if path.is_dir()})
