"""A signal at one rank: all save after the same step, and leave with the same status."""

import os
import signal
import tempfile

import keras
import pytest
from made_data import make_records

import gmeta_tf as gm
from gmeta_tf.distributed.collectives import barrier, broadcast_json, gather_json, start
from gmeta_tf.saving.checkpoints.checkpoint import latest_checkpoint
from gmeta_tf.saving.checkpoints.manifest import read_manifest

WORLD = gm.World.detect()


class SignalAt(keras.callbacks.Callback):
    """Sends this process a signal after so many steps, and counts on."""

    def __init__(self, step):
        super().__init__()
        self.steps, self._at = 0, step

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == self._at and WORLD.rank == WORLD.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_all_ranks_save_after_the_same_step_and_leave():
    start(WORLD)
    folder = tempfile.mkdtemp() if WORLD.is_chief else None
    folder = broadcast_json(folder, WORLD, name="preemption_folder")
    if WORLD.is_chief:
        make_records(f"{folder}/records", [9] * 96, splits=("train",))
    barrier(WORLD, name="preemption_records")
    records = gm.Records.open(f"{folder}/records")
    batches = gm.TaskBatches(records, "train", tasks=2, support=4, query=5, world=WORLD)
    before = signal.getsignal(signal.SIGUSR1)
    embedding = gm.ShardedEmbedding(records.schema, 3, world=WORLD)
    model = gm.MetaModel(gm.models.MeLU((4,)), embedding)
    model.compile()
    counter = SignalAt(3)
    run = gm.RunFolder(f"{folder}/run", batches, preemptible=True)
    with pytest.raises(SystemExit) as ended:
        model.fit(batches, epochs=10**6, callbacks=[counter, run], verbose=0)
    assert ended.value.code == 75
    steps = gather_json(counter.steps, WORLD, name="preemption_steps")
    assert len(set(steps)) == 1
    assert signal.getsignal(signal.SIGUSR1) == before
    if WORLD.is_chief:
        saved = latest_checkpoint(f"{folder}/run/checkpoint")
        # What is saved is where all stopped: it goes on there.
        progress = gm.Progress.from_json(read_manifest(saved)["details"]["progress"])
        in_epoch = sum(segment.steps for segment in progress.done)
        assert progress.epoch * batches.steps_per_epoch + in_epoch == steps[0]
    barrier(WORLD, name="preemption_end")
