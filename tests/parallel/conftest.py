"""Tests of several ranks: each rank runs every test, under `horovodrun -np 2` and `-np 3`."""

import getpass
import os
import pathlib
import tempfile

import pytest
from rank_failures import end_all_ranks_at_a_failure

from gmeta_tf.distributed.world import World

HERE = pathlib.Path(__file__).parent
WORLD = World.detect()

if WORLD.is_distributed:
    # Ranks start together. In one folder each would number its own beside the others', and take
    # away what another is just looking at; pytest then ends in an error after the last test.
    own = pathlib.Path(tempfile.gettempdir()) / f"gmeta-tf-tests-{getpass.getuser()}-{WORLD.rank}"
    own.mkdir(exist_ok=True)
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(own)


def pytest_collection_modifyitems(items):
    if WORLD.is_distributed:
        return
    alone = pytest.mark.skip(reason="needs ranks: horovodrun -np 2 python -m pytest tests/parallel")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(alone)


def pytest_runtest_logreport(report):
    if WORLD.is_distributed:
        end_all_ranks_at_a_failure(report)
