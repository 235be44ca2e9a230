"""What the tests of remote records have done in the process that reaches the store."""

from __future__ import annotations

import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.cli.options import PrepareOptions
from gmeta_tf.cli.prepare import prepare as prepare_command
from gmeta_tf.distributed.world import World
from gmeta_tf.meta_io.files import read_text
from gmeta_tf.meta_io.records.overview import overview
from gmeta_tf.meta_io.records.record_damage import read_episode
from gmeta_tf.meta_io.records.verification import describe_damage, verify
from gmeta_tf.meta_io.sources.sources import files_source

__all__ = [
    "begin",
    "go_on",
    "inspected",
    "opened",
    "prepare",
    "read_all",
    "read_text",
    "source_files",
    "steps_of",
    "verify",
]


def prepare(**options):
    """`gmeta-tf prepare`, whose errors come as they are."""
    prepare_command(PrepareOptions(**options))


def source_files(paths, copies=None):
    """The description of a source, and the paths that it reads."""
    source = files_source(paths, copies=copies)
    return source.description, [file.path for file in source.files]


def opened(path):
    """The description of a records folder."""
    return gm.Records.open(path).describe()


def inspected(path):
    """What `gmeta-tf inspect` shows, the first record, and what `--verify` finds."""
    records = gm.Records.open(path)
    shown = overview(records, None, num_episodes=3)
    return shown, read_episode(records, "train", 0).tolist(), verify(path)


def read_all(path):
    """Every episode of the split "train"."""
    return [(task, words.tolist()) for task, words in gm.Records.open(path).read("train")]


def steps_of(path, rank, size, num_epochs, **options):
    """All tensors of the batches of a rank's epochs, and of one step more."""
    batches = gm.TaskBatches(
        gm.Records.open(path), "train", world=World(rank=rank, size=size), **options
    )
    num_steps = num_epochs * batches.steps_per_epoch + 1
    return [_arrays(batch) for batch in batches.dataset(0).take(num_steps)]


_begun = {}


def begin(path, **options):
    """Reads the first step of an epoch; `go_on` reads the rest."""
    batches = gm.TaskBatches(gm.Records.open(path), "train", **options)
    steps = iter(batches.dataset(0).take(batches.steps_per_epoch))
    _begun.update(batches=batches, steps=steps)
    return _arrays(next(steps))


def go_on():
    """The steps up to the end or an error, and what is said of the error ("" if there is none)."""
    batches, steps, read = _begun.pop("batches"), _begun.pop("steps"), []
    try:
        for batch in steps:
            read.append(_arrays(batch))
    except tf.errors.OpError as error:
        return read, describe_damage(batches.records, "train", error) or f"unexplained: {error}"
    return read, ""


def _arrays(batch):
    return [value.numpy() for value in tf.nest.flatten(batch)]
