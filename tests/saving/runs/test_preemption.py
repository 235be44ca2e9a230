"""One rank alone: SIGTERM and SIGUSR1, and what a launcher reads of its steps."""

import json
import os
import signal

import pytest

from gmeta_tf.distributed.world import World
from gmeta_tf.saving.runs.heartbeat import Heartbeat
from gmeta_tf.saving.runs.preemption import Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_after_the_step_and_a_second_one_does_what_it_did(number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        preemption = Preemption(World())
        preemption.begin()
        assert not preemption.after_step()
        os.kill(os.getpid(), number)
        assert preemption.after_step()
        assert heard == []
        os.kill(os.getpid(), number)
        assert heard == [number]
        preemption.end()
        os.kill(os.getpid(), number)
        assert heard == [number, number]
    finally:
        signal.signal(number, before)


def test_a_heartbeat_tells_steps_and_those_that_are_saved(tmp_path):
    path = tmp_path / "beat"
    heartbeat = Heartbeat({"GMETA_HEARTBEAT": str(path)})
    heartbeat.begin()
    assert json.loads(path.read_text())["steps"] == 0
    for _ in range(3):
        heartbeat.step(2)
    heartbeat.saved()
    told = json.loads(path.read_text())
    assert (told["steps"], told["saved_steps"]) == (6, 6)
    assert told["at"] >= told["saved_at"]
    assert path.read_text().endswith("\n")
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_launcher_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heartbeat = Heartbeat({})
    heartbeat.begin()
    heartbeat.saved()
    assert not list(tmp_path.iterdir())
