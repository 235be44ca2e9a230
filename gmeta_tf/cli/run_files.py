"""A run's `config.yaml`, and who may take a run folder; without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import yaml

from gmeta_tf.cli.model_options import BEFORE_THEY_WERE
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.yaml_file import read_yaml
from gmeta_tf.meta_io.disk import to_disk
from gmeta_tf.meta_io.files import is_remote
from gmeta_tf.saving.runs.run_lock import LOCK, check_unlocked

__all__ = ["check_run_folder", "claim_run_folder", "read_config", "records_path"]

_CONFIG = "config.yaml"
# What was asked for once is not asked for whenever the run is loaded.
_ONCE = {"resume": False, "overwrite": False, "checkpoint": None, "fall_back": False}


def read_config(run: str | os.PathLike[str]) -> TrainOptions:
    """The options that a run was last trained with; those of earlier versions have fewer.

    Raises:
        FileNotFoundError: not a run folder.
        ValueError: its config.yaml does not hold the options of `gmeta-tf train`.
    """
    config = pathlib.Path(run) / _CONFIG
    if not config.is_file():
        raise FileNotFoundError(
            f"{os.fspath(run)} is not a run folder: expected {config}. "
            "Make one with `gmeta-tf train`."
        )
    try:
        values = BEFORE_THEY_WERE | read_yaml(config, "the options of a run")
        # Earlier versions took 0 for none.
        values["checkpoint_every_steps"] = values.get("checkpoint_every_steps") or None
        values["metrics"] = _chosen_metrics(values.get("metrics"), values.get("loss"))
        return TrainOptions(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{config} does not hold the options of a run: {error}. Restore it, or train again "
            "with --overwrite."
        ) from error


def check_run_folder(options: TrainOptions) -> None:
    """Checks that `train` may use the folder, and touches nothing.

    Raises:
        ValueError: the folder is in use and neither flag was given, is not that of a run, holds
            the records to train on, or another process is training there.
    """
    run = pathlib.Path(options.run)
    if not os.path.lexists(run):
        return
    if not run.is_dir():
        raise ValueError(f"{run} is not a folder. Choose another --run.")
    check_unlocked(run)
    if not any(path.name != LOCK for path in run.iterdir()):
        return
    if not options.resume and not options.overwrite:
        raise ValueError(f"{run} exists. Choose another --run, or pass --resume or --overwrite.")
    if not (run / _CONFIG).is_file():
        flag = "--resume" if options.resume else "--overwrite"
        raise ValueError(
            f"{run} is not a run folder (it has no {_CONFIG}), so {flag} leaves it alone. "
            "Choose another --run."
        )
    if options.overwrite and _is_inside(options.records, run):
        raise ValueError(
            f"{run} holds the records {options.records}, which --overwrite would delete. "
            "Choose another --run."
        )


def claim_run_folder(options: TrainOptions) -> None:
    """Makes the folder that of this run: `config.yaml` is written, then an older run is deleted.

    What `check_run_folder` found is decided anew, since another process may have come first. The
    folder itself stays, which may be a link or the current folder. An older run's files are moved
    to a hidden folder in it first, and back if something fails.

    Raises:
        ValueError: as `check_run_folder`, or another process has just taken the folder.
        OSError: the folder cannot be written.
    """
    check_run_folder(options)
    run = pathlib.Path(options.run)
    run.mkdir(parents=True, exist_ok=True)
    saved = dataclasses.asdict(options) | {"records": records_path(options)} | _ONCE
    text = yaml.safe_dump(saved, sort_keys=False)
    if not (run / _CONFIG).is_file():
        try:
            # Only one of two processes that start at the same time can make the file.
            with open(run / _CONFIG, "x", encoding="utf-8") as file, _removed_if_half(run):
                file.write(text)
                file.flush()
        except FileExistsError as error:
            raise ValueError(
                f"{run} was taken by another process. Choose another --run."
            ) from error
    elif options.overwrite:
        with _older_run_aside(run):
            _replace_config(run, text)
    else:
        _replace_config(run, text)


def records_path(options: TrainOptions) -> str:
    """Where a run's records are, whatever the current folder is later on."""
    return options.records if is_remote(options.records) else os.path.abspath(options.records)


def _chosen_metrics(metrics: list[str] | None, loss: str | None) -> list[str] | None:
    """A run's metrics; None for those that earlier versions took by default, whatever the loss.

    >>> _chosen_metrics(["log_loss", "mae"], "mean_squared_error")
    ['mae']
    """
    if metrics is None or metrics == ["auc", "task_auc", "log_loss"]:
        return None
    if loss == "mean_squared_error":  # such a run was trained, and never evaluated
        return [name for name in metrics if name != "log_loss"] or None
    return metrics


@contextlib.contextmanager
def _removed_if_half(run: pathlib.Path) -> Iterator[None]:
    """Takes a new `config.yaml` away if it cannot be written: the folder is not a run's then."""
    try:
        yield
    except OSError:
        (run / _CONFIG).unlink()
        raise


def _is_inside(records: str, run: pathlib.Path) -> bool:
    path = pathlib.Path(records).resolve()
    return not is_remote(records) and path.is_relative_to(run.resolve())


def _replace_config(run: pathlib.Path, text: str) -> None:
    new = run / f"{_CONFIG}.new"
    try:
        new.write_text(text, encoding="utf-8")
        to_disk(new)
        new.replace(run / _CONFIG)
        to_disk(run)
    finally:
        new.unlink(missing_ok=True)  # half of it, on a full disk


@contextlib.contextmanager
def _older_run_aside(run: pathlib.Path) -> Iterator[None]:
    """Moves all but `config.yaml` away; deletes it at the end, or puts it back after an error.

    `config.yaml` stays, so that after a crash the folder is still known as that of a run.
    """
    aside = pathlib.Path(tempfile.mkdtemp(prefix=".overwritten-", dir=run))
    try:
        for path in list(run.iterdir()):
            if path != aside and path.name not in (_CONFIG, LOCK):
                path.rename(aside / path.name)
        yield
    except BaseException:
        for path in aside.iterdir():
            path.rename(run / path.name)
        aside.rmdir()
        raise
    shutil.rmtree(aside)
