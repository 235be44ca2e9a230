"""One rank fails: every rank ends, soon, and one of them says why. Starts two ranks of its own."""

import os
import pathlib
import subprocess
import sys

import pytest

HOROVODRUN = pathlib.Path(sys.executable).with_name("horovodrun")

pytestmark = pytest.mark.skipif(
    not HOROVODRUN.exists(), reason="needs horovodrun beside python: bash launch/setup.sh"
)

LIMIT_SECONDS = 120

# A rank writes down what it met, then waits for the other to do so too: horovodrun kills the rest
# when the first rank ends, and would hide a rank that hangs.
SCRIPT = '''
import dataclasses
import pathlib
import sys
import time

import made_batches
import made_data
import tensorflow as tf

import gmeta_tf as gm

folder, failure = pathlib.Path(sys.argv[1]), sys.argv[2]
world = gm.World.detect()


def corrupted_record():
    """Rank 0 reads the first of two files and rank 1 the second, of which one bit is turned."""
    own = folder / f"records-{world.rank}"
    records = made_data.make_records(own, [9] * 16, num_files=2, splits=("train",))
    batches = gm.TaskBatches(records, "train", tasks=2, support=4, query=5, world=world)
    if world.rank == 1:
        path = pathlib.Path(records.files("train")[1])
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    return batches


def failing_pipeline():
    def check(step):
        if world.rank == 1 and step == 3:
            raise ValueError("the price of step 3 is not a number")
        return step

    steps = [made_batches.made_tasks(seed) for seed in range(6)]
    counted = tf.data.Dataset.range(6).map(
        lambda step: tf.ensure_shape(tf.numpy_function(check, [step], tf.int64), [])
    )
    both = tf.data.Dataset.zip(made_batches.dataset(steps, 7), counted)
    return both.map(lambda batch, step: batch)


def key_out_of_range():
    task = made_batches.made_tasks(0)[0]
    keys = task.keys.copy()
    keys[0, 0] = 13 if world.rank == 1 else 0
    return made_batches.dataset([[dataclasses.replace(task, keys=keys)]], 7)


schema = made_data.SCHEMA if failure == "record" else made_batches.SCHEMA
embedding = gm.ShardedEmbedding(schema, 3, replicate=False, world=world)
model = gm.MetaModel(gm.models.MeLU((4,)), embedding)
model.compile()
data = {
    "record": corrupted_record, "pipeline": failing_pipeline, "key": key_out_of_range
}[failure]()
try:
    model.fit(data, epochs=3, verbose=0)
except Exception as error:
    (folder / f"rank-{world.rank}").write_text(f"{type(error).__name__}: {error}")
    for _ in range(300):
        if len(list(folder.glob("rank-*"))) == world.size:
            break
        time.sleep(0.1)
    else:
        (folder / "hangs").touch()  # until this rank's end frees it
    raise
'''


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "message"),
    [("record", ".tfrecord at offset "), ("pipeline", "the price of step 3 is not a number")],
)
def test_a_failing_rank_ends_all_with_its_message(tmp_path, failure, message):
    said, printed = said_by_ranks(tmp_path, failure)
    assert message in said["rank-1"]
    assert "rank 0 stopped because another rank did" in said["rank-0"]
    assert message in printed


def test_a_rejected_step_is_the_same_error_on_every_rank(tmp_path):
    said, _ = said_by_ranks(tmp_path, "key")
    assert said == {
        f"rank-{rank}": "ValueError: a step was rejected: the table item: expected keys from 0 to "
        f"12, got {got}. Prepare the data and build the tables from one schema. Nothing was "
        "updated."
        for rank, got in ((0, "such keys on 1 other rank(s)"), (1, "13"))
    }


def said_by_ranks(tmp_path, failure):
    """What each rank raised, and what was printed, by a run that fails on two ranks."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    paths = [str(pathlib.Path(__file__).parents[1] / "helpers"), os.environ.get("PYTHONPATH", "")]
    finished = subprocess.run(
        [HOROVODRUN, "-np", "2", sys.executable, script, tmp_path, failure],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    said = {path.name: path.read_text() for path in tmp_path.glob("rank-*")}
    assert finished.returncode != 0, finished.stdout
    assert said.keys() == {"rank-0", "rank-1"}, finished.stdout
    assert not (tmp_path / "hangs").exists(), finished.stdout
    return said, finished.stdout
