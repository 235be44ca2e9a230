"""Tests of several ranks: each rank runs every test, under `horovodrun -np 2` and `-np 3`."""

import pathlib

import pytest
from rank_failures import end_all_ranks_at_a_failure

from gmeta_tf.distributed.world import World

HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items):
    if World.detect().is_distributed:
        return
    alone = pytest.mark.skip(reason="needs ranks: horovodrun -np 2 python -m pytest tests/parallel")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(alone)


def pytest_runtest_logreport(report):
    if World.detect().is_distributed:
        end_all_ranks_at_a_failure(report)
