"""The threads that a run gets, asked of processes that have not run an op yet."""

import json
import os
import subprocess
import sys

import pytest

from gmeta_tf.threads import cores_of_rank
from gmeta_tf.world import World

ASK = """
import json, os, sys
cores = json.loads(sys.argv[1])
os.sched_getaffinity = lambda _: set(range(cores))
os.cpu_count = lambda: cores
import tensorflow as tf
from gmeta_tf import threads
from gmeta_tf.world import World
world = World(rank=0, size=2, local_rank=0, local_size=json.loads(sys.argv[2]))
exec(sys.argv[3])
threads.share_cores(world)
print(json.dumps([
    tf.config.threading.get_intra_op_parallelism_threads(),
    tf.config.threading.get_inter_op_parallelism_threads(),
    threads.num_lanes(world),
]))
"""


def asked(cores, local_size, before="", **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_NUM_")}
    found = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(cores), json.dumps(local_size), before],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("cores", "local_size", "expected"),
    [(4, 1, [1, 4, 4]), (4, 2, [1, 2, 2]), (2, 2, [1, 2, 1]), (1, 1, [1, 2, 1])],
)
def test_an_op_has_one_thread_and_a_lane_one_core(cores, local_size, expected):
    assert asked(cores, local_size) == expected


def test_what_the_user_says_stays():
    told = "tf.config.threading.set_intra_op_parallelism_threads(2)"
    assert asked(4, 1, told) == [2, 0, 2]
    assert asked(4, 1, TF_NUM_INTRAOP_THREADS="4") == [0, 0, 1]
    assert asked(4, 1, TF_NUM_INTRAOP_THREADS="1") == [0, 0, 4]


def test_after_the_first_op_nothing_changes():
    assert asked(4, 1, "tf.zeros([1])") == [0, 0, 1]


def test_ranks_that_are_bound_to_cores_have_them_alone(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    two_of_a_host = World(rank=0, size=2, local_rank=0, local_size=2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)))
    assert cores_of_rank(two_of_a_host) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cores_of_rank(two_of_a_host) == 4
