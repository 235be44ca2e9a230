"""What tests/parallel does when a test fails on one rank."""

import types

import pytest
from rank_failures import end_all_ranks_at_a_failure


def report(*, failed):
    return types.SimpleNamespace(
        failed=failed, nodeid="test_a.py::test_b", when="call", longreprtext="assert 1 == 2"
    )


def test_a_failure_is_printed_and_ends_the_rank_with_status_1(capfd):
    statuses = []
    end_all_ranks_at_a_failure(report(failed=True), leave=statuses.append)
    assert statuses == [1]
    assert capfd.readouterr().err == "\ntest_a.py::test_b: call\nassert 1 == 2\n"


def test_anything_else_goes_on(capfd):
    end_all_ranks_at_a_failure(report(failed=False), leave=pytest.fail)
    assert capfd.readouterr().err == ""
