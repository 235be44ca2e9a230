"""When ranks are started again, on which hosts, and what is said; over starts that are made up."""

import pytest

from gmeta_tf.launching.hosts import Host
from gmeta_tf.launching.ranks import Asked, Outcome, Start
from gmeta_tf.launching.restarts import Restarts, resumed, run_to_the_end

HOSTS = [Host("a", 2), Host("b", 2)]
COMMAND = ["gmeta-tf", "train", "--run", "run", "--overwrite"]
LOST = Outcome(
    status=137,
    why="rank 3 on b was lost",
    may_succeed_again=True,
    has_begun=True,
    steps=12,
    lost_steps=2,
    lost_seconds=1.5,
)


def run(outcomes, *, gone=(), **restarts):
    """The status, and the starts that were made."""
    made, outcomes = [], iter(outcomes)

    def start_once(start, control, asked):
        made.append(start)
        return next(outcomes)

    start = Start(command=COMMAND, hosts=HOSTS, environment={})
    status = run_to_the_end(
        start,
        HOSTS,
        Restarts(**restarts),
        None,
        Asked(8),
        run=start_once,
        is_there=lambda host, _: host.name not in gone,
    )
    return status, made


def test_it_goes_on_from_the_checkpoint_on_the_hosts_that_answer(capsys):
    status, made = run([LOST, Outcome(status=0)], gone="b", most=2)
    assert status == 0
    assert [start.num_ranks for start in made] == [4, 2]
    assert made[1].command == ["gmeta-tf", "train", "--run", "run", "--resume"]
    said = capsys.readouterr().err
    assert "lost: 2 step(s) of 12 since the start, 1.5 s after the last checkpoint" in said
    assert "b does not answer and is left out" in said
    assert "restart 1 of 2: 2 rank(s) on a:2, gmeta-tf train --run run --resume" in said
    assert "finished after 1 restart(s)" in said


def test_before_training_begins_an_older_run_is_not_resumed():
    early = Outcome(status=137, why="lost", may_succeed_again=True)
    status, made = run([early, Outcome(status=0)], most=1)
    assert status == 0
    assert made[1].command == COMMAND


def test_a_hung_start_after_training_had_begun_still_resumes():
    early = Outcome(status=1, why="no first step for 5 s", may_succeed_again=True)
    _, made = run([LOST, early, Outcome(status=0)], most=2)
    assert made[2].command[-1] == "--resume"


def test_an_error_of_a_rank_s_own_is_not_tried_again(capsys):
    failed = Outcome(status=1, why="rank 0 on a failed with status 1", text="no records\n")
    status, made = run([failed], most=5)
    assert (status, len(made)) == (1, 1)
    assert capsys.readouterr().err == (
        "gmeta-tf launch: rank 0 on a failed with status 1:\nno records\n"
    )


@pytest.mark.parametrize(
    ("restarts", "gone", "message"),
    [
        ({"most": 1}, "", "not started again: that was done 1 time(s), --max-restarts 1"),
        ({"most": 9, "min_ranks": 3}, "b", "2 rank(s) are left, expected at least --min-np 3"),
        ({"most": 9}, "ab", "0 rank(s) are left, expected at least --min-np 1"),
    ],
)
def test_it_ends_with_the_rank_s_status(restarts, gone, message, capsys):
    status, _ = run([LOST] * 10, gone=gone, **restarts)
    assert status == 137
    assert message in capsys.readouterr().err


def test_preempted_ranks_are_not_started_again(capsys):
    status, made = run([Outcome(status=75, why="preempted", steps=5)], most=5)
    assert (status, len(made)) == (75, 1)
    assert "status 75: start it again with --resume" in capsys.readouterr().err


def test_resume_is_added_once():
    assert resumed(["a", "--resume", "b"], "--resume") == ["a", "--resume", "b"]
    assert resumed(["a"], "--go-on yes") == ["a", "--go-on", "yes"]
