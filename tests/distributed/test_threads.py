"""The threads that a run gets, asked of processes that have not run an op yet."""

import json
import os
import subprocess
import sys

import pytest

from gmeta_tf.distributed.threads import cores_of_rank
from gmeta_tf.distributed.world import World

# TensorFlow is imported once: each question is asked of a fork, which has not run an op either.
ASK = """
import json, os, sys
import tensorflow as tf
from gmeta_tf.distributed import threads
from gmeta_tf.distributed.world import World

def answer(cores, local_size, before, environment):
    os.environ.update(environment)
    os.sched_getaffinity = lambda _: set(range(cores))
    os.cpu_count = lambda: cores
    world = World(rank=0, size=2, local_rank=0, local_size=local_size)
    exec(before)
    threads.share_cores(world)
    print(json.dumps([
        tf.config.threading.get_intra_op_parallelism_threads(),
        tf.config.threading.get_inter_op_parallelism_threads(),
        threads.num_lanes(world),
    ]), flush=True)

for question in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        answer(*question)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""

TOLD = "tf.config.threading.set_intra_op_parallelism_threads(2)"
# Cores, ranks of the host, what runs before, the environment -> threads in and of ops, lanes.
QUESTIONS = {
    "four cores": ((4, 1, "", {}), [1, 4, 4]),
    "four cores of two ranks": ((4, 2, "", {}), [1, 2, 2]),
    "two cores of two ranks": ((2, 2, "", {}), [1, 2, 1]),
    "one core": ((1, 1, "", {}), [1, 2, 1]),
    "the user says two threads": ((4, 1, TOLD, {}), [2, 0, 2]),
    "the environment says four": ((4, 1, "", {"TF_NUM_INTRAOP_THREADS": "4"}), [0, 0, 1]),
    "the environment says one": ((4, 1, "", {"TF_NUM_INTRAOP_THREADS": "1"}), [0, 0, 4]),
    "after the first op": ((4, 1, "tf.zeros([1])", {}), [0, 0, 1]),
}


@pytest.fixture(scope="module")
def answers():
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TF_NUM_")}
    questions = [question for question, _ in QUESTIONS.values()]
    found = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(questions)],
        env=inherited,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    return dict(zip(QUESTIONS, answers, strict=True))


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_op_has_one_thread_and_a_lane_one_core_where_nothing_else_is_said(answers, name):
    assert answers[name] == QUESTIONS[name][1]


def test_ranks_that_are_bound_to_cores_have_them_alone(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    two_of_a_host = World(rank=0, size=2, local_rank=0, local_size=2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)))
    assert cores_of_rank(two_of_a_host) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cores_of_rank(two_of_a_host) == 4
