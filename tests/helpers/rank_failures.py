"""A rank whose test fails ends all ranks, which would else wait for it in their next collective."""

import os
import sys

__all__ = ["end_all_ranks_at_a_failure"]


def end_all_ranks_at_a_failure(report, *, leave=os._exit):
    """Prints why a test failed and leaves with status 1, on which horovodrun ends the others.

    It neither tears down nor leaves Horovod in order: both wait for ranks that may be in the middle
    of the test.

    Args:
        report: pytest's, of a test's setup, call or teardown.
        leave: called with the exit status.
    """
    if report.failed:
        print(f"\n{report.nodeid}: {report.when}\n{report.longreprtext}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        leave(1)
