"""What hosts say of themselves, and which of it would make ranks fail."""

import pytest

from gmeta_tf.launching.host_checks import HostReport, check_hosts, problems_of
from gmeta_tf.launching.hosts import Host
from gmeta_tf.launching.messages import Control
from gmeta_tf.launching.ranks import Start

GIB = 1 << 30


def report(name, *, clock=0.0, slots=2, versions=None, **facts):
    known = {
        "name": name,
        "address": "10.0.0.1",
        "versions": {"Python": "3.11.7", "horovod": "0.28.1", "gmeta_tf": "1 (ab)"}
        | (versions or {}),
        "cores": 4,
        "memory_bytes": 8 * GIB,
        "disk_bytes": 8 * GIB,
        "interface": "eth0",
        "launcher": "yes",
        "clock": 0.0,
    }
    return HostReport(Host(name, slots), known | facts, clock_seconds=clock, error_seconds=0.5)


def test_hosts_that_are_alike_have_no_problem():
    assert problems_of([report("a"), report("b", clock=2.0)]) == []


@pytest.mark.parametrize(
    ("other", "text", "is_error"),
    [
        (report("b", address="127.0.1.1"), "b: expected its own name, b, to resolve", True),
        (report("b", address=None), "got nothing. Horovod binds", True),
        (report("b", versions={"gmeta_tf": "1 (cd)"}), "b: expected gmeta_tf 1 (ab), as", True),
        (report("b", launcher="cannot be reached"), "b: cannot be reached", True),
        (report("b", clock=-90.0), "within a minute of this host's, got -90 s", True),
        (report("b", memory_bytes=GIB), "got 1.0 GiB for 2", False),
        (report("b", disk_bytes=GIB // 2), "free disk for checkpoints", False),
        (report("b", slots=8), "expected a core a rank, got 4 for 8", False),
        (HostReport(Host("b", 2), {}, "timed out"), "got: timed out. Try `ssh b true`", True),
    ],
)
def test_what_would_fail(other, text, is_error):
    problems = problems_of([report("a"), report("c"), other])
    assert len(problems) == 1
    assert text in problems[0].text
    assert problems[0].is_error == is_error


def test_the_loopback_is_good_for_one_host():
    assert problems_of([report("a", address="127.0.0.1")]) == []


def test_this_host_answers_and_reaches_the_launcher():
    control = Control()
    host = Host("localhost", 1)
    (one,) = check_hosts([host], Start(command=[], hosts=[host], environment={}), control)
    control.close()
    assert one.facts["launcher"] == "yes", one
    assert abs(one.clock_seconds) <= one.error_seconds
    assert one.line().startswith("localhost: 1 rank(s), ")
