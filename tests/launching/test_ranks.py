"""Why a start ended, of what the guards said; without processes."""

import time

import pytest

from gmeta_tf.launching import ranks
from gmeta_tf.launching.hosts import Host
from gmeta_tf.launching.ranks import Asked, Start

OF_ANOTHER = "gmeta-tf train: rank 0 stopped because another rank did; ...\n"
BEAT = {"steps": 10, "saved_steps": 8, "saved_at": 100.0, "at": 103.5}


class Told:
    """Stands in for the control: keeps what guards are told."""

    def __init__(self):
        self.said = []

    def tell(self, do):
        self.said.append(do)


def run(*events, asked=None, **options):
    """A run to which guards have said something, after two of them had connected."""
    start = Start(command=["x"], hosts=[Host("a", 1), Host("b", 1)], environment={}, **options)
    made = ranks._Run(start, Told(), asked or Asked(8))
    for number, host in enumerate("ab"):
        made._take(number, {"word": "w", "rank": number, "host": host})
    for number, message in events:
        made._take(number, message)
    return made


def ended(status, text=""):
    return {"exit": status, "stderr": text}


@pytest.mark.parametrize(
    ("events", "why", "again"),
    [
        (
            [(0, ended(1, OF_ANOTHER)), (1, ended(1, "ValueError: x\n"))],
            "rank 1 on b failed with status 1",
            False,
        ),
        (
            [(0, ended(1, OF_ANOTHER)), (1, ended(137))],
            "rank 1 on b was ended by SIGKILL (often too little memory)",
            True,
        ),
        ([(0, ended(1, OF_ANOTHER)), (1, None)], "rank 1 on b was lost", True),
        ([(0, ended(1, OF_ANOTHER)), (1, ended(143))], "rank 0 on a failed with status 1", True),
        (
            [(0, {"exit": 1, "stderr": "", "recent": OF_ANOTHER})],
            "rank 0 on a failed with status 1",
            True,
        ),
        ([(0, ended(134, "terminate called")), (1, ended(0))], "rank 0 on a was ended by", True),
    ],
)
def test_the_rank_that_the_others_failed_because_of(events, why, again):
    outcome = run(*events)._judged(1)
    assert outcome.why.startswith(why)
    assert outcome.may_succeed_again == again
    assert not outcome.has_begun


def test_what_was_lost():
    outcome = run((0, {"beat": BEAT}), (1, {"beat": BEAT | {"steps": 9}}), (1, None))._judged(1)
    assert (outcome.steps, outcome.lost_steps, outcome.lost_seconds) == (10, 2, 3.5)
    assert outcome.has_begun


def test_all_succeeded():
    assert run((0, ended(0)), (1, ended(0)))._judged(0).status == 0


def test_ranks_that_never_began_have_horovodrun_s_own_lines():
    made = run()
    made._ranks.clear()
    made._own_lines.append("could not connect to some hosts via ssh\n")
    outcome = made._judged(1)
    assert outcome.text == "could not connect to some hosts via ssh\n"
    assert (outcome.status, outcome.may_succeed_again) == (1, True)


def test_a_rank_that_fails_ends_the_others_once_they_have_spoken():
    made = run((0, ended(1, OF_ANOTHER)))
    made._look()
    assert made._control.said == []  # rank 1 may say why
    made._take(1, ended(1, "ValueError: x\n"))
    made._look()
    assert made._control.said == ["end"]


def test_a_rank_that_the_launcher_killed_is_not_the_first():
    made = run((1, None))
    made._first_failure -= ranks._SETTLE_SECONDS + 1
    made._look()
    made._take(0, ended(137))
    assert made._judged(1).why.startswith("rank 1 on b was lost")


def test_others_that_say_nothing_are_not_waited_for(monkeypatch):
    made = run((1, None))
    made._first_failure -= ranks._SETTLE_SECONDS + 1
    made._look()
    assert made._control.said == ["end"]


@pytest.mark.parametrize(
    ("beats", "why"),
    [
        ([(0, {"beat": BEAT})], "no step for 5 s"),
        ([(0, {"beat": BEAT | {"steps": 0}})], None),  # before the first step
        ([], None),
    ],
)
def test_no_step_for_too_long(beats, why):
    made = run(*beats, step_timeout=5.0, start_timeout=60.0)
    made._last_step = time.monotonic() - 6
    made._look()
    assert made._control.said == (["end"] if why else [])
    if why:
        outcome = made._judged(-9)
        assert (outcome.why, outcome.may_succeed_again) == (why, True)


def test_preempted_ranks_are_asked_once_and_then_ended():
    asked = Asked(8)
    asked.preempt_by = time.monotonic() + 60
    made = run((0, {"beat": BEAT}), asked=asked)
    made._look()
    made._look()
    assert made._control.said == ["preempt"]
    asked.preempt_by = time.monotonic() - 1
    made._look()
    assert made._control.said == ["preempt", "end"]
    made._take(0, ended(75))
    made._take(1, ended(75))
    assert made._judged(1).status == 75


def test_ranks_that_preempt_themselves():
    assert run((0, ended(75)), (1, ended(75)))._judged(1).why == "preempted"
