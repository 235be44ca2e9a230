"""Collectives of one rank: the identity, and no Horovod. Of more: tests/parallel/."""

import os
import subprocess
import sys
import textwrap

import pytest

from gmeta_tf.distributed import collectives
from gmeta_tf.distributed.world import World

BLOCK_HOROVOD = "import sys; sys.modules['horovod'] = None\n"


def run_without_horovod(code):
    """What the code prints in a fresh process in which `import horovod` fails."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK_HOROVOD + textwrap.dedent(code)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_one_rank_is_the_identity_and_more_say_what_is_missing():
    printed = run_without_horovod(
        """
        import tensorflow as tf
        from gmeta_tf.distributed import collectives
        from gmeta_tf.distributed.world import World

        one = World()
        collectives.start(one)
        rows = tf.constant([[1.0, 2.0], [3.0, 4.0]])
        splits = tf.constant([2])
        back, arrived = collectives.alltoall(rows, splits, one, name="a")
        print(back is rows, arrived is splits)
        summed = collectives.allreduce_sum((rows, splits), one, name="b")
        print(isinstance(summed, list), summed[0] is rows, summed[1] is splits)
        print(collectives.broadcast(rows, one, name="c") is rows)
        print(collectives.allgather_rows(rows, one, name="d") is rows)
        collectives.barrier(one, name="e")
        print(collectives.broadcast_json({"b": [1, None], "a": "x"}, one, name="f"))
        collectives.agree({"tables": [1, 2]}, one, name="the tables")
        collectives.stop(one)

        two = World(rank=0, size=2)
        for connect in (collectives.start, collectives.stop):
            try:
                connect(two)
            except ImportError as error:
                print(error)
        """
    )
    lines = printed.splitlines()
    assert lines[:5] == [
        "True True",
        "True True True",
        "True",
        "True",
        "{'a': 'x', 'b': [1, None]}",
    ]
    assert len(lines) == 7
    for line in lines[5:]:
        assert line.startswith("more than one rank needs Horovod built for TensorFlow")
        assert "bash launch/setup.sh" in line


def test_agree_needs_a_json_value():
    with pytest.raises(TypeError, match="not JSON serializable"):
        collectives.agree({1, 2}, World(), name="a set")


def test_agree_of_one_rank_holds_for_any_value():
    for value in (None, 0, "text", [1, [2]], {"a": {"b": 0.5}}):
        assert collectives.agree(value, World(), name="a value") is None


def test_broadcast_json_of_one_rank_is_what_json_makes_of_it():
    value = collectives.broadcast_json({"pair": (1, 2)}, World(), name="a pair")
    assert value == {"pair": [1, 2]}  # as on any number of ranks


@pytest.mark.parametrize(("told", "expected"), [(None, "0.1"), ("2", "2")])
def test_horovods_cycle_is_short_unless_it_is_set(monkeypatch, told, expected):
    """Set before Horovod starts, which reads it then."""
    monkeypatch.setenv("HOROVOD_CYCLE_TIME", "to be put back")
    if told is None:
        monkeypatch.delenv("HOROVOD_CYCLE_TIME")
    else:
        monkeypatch.setenv("HOROVOD_CYCLE_TIME", told)
    found = []

    class Horovod:
        init = staticmethod(lambda: found.append(os.environ["HOROVOD_CYCLE_TIME"]))
        rank = staticmethod(lambda: 1)
        size = staticmethod(lambda: 2)

    monkeypatch.setattr(collectives, "_horovod", lambda: Horovod)
    collectives.start(World(rank=1, size=2))
    assert found == [expected]


def test_xla_operations_that_were_left_out_of_horovod_are_refused(tmp_path):
    """A build of launch/build_horovod.sh has a module that says so; another has not."""
    (tmp_path / "horovod" / "tensorflow").mkdir(parents=True)
    (tmp_path / "horovod" / "__init__.py").touch()
    (tmp_path / "horovod" / "tensorflow" / "__init__.py").write_text(
        "def init(): print('begun')\ndef rank(): return 0\ndef size(): return 1\n"
    )
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from gmeta_tf.distributed import collectives
        from gmeta_tf.distributed.world import World
        collectives.start(World(), alone_too=True)
    """

    def started(**environment):
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), tmp_path],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )

    assert started(HOROVOD_ENABLE_XLA_OPS="1").stdout == "begun\n"
    (tmp_path / "horovod" / "tensorflow" / "without_xla_ops.py").touch()
    assert started(HOROVOD_ENABLE_XLA_OPS="0").stdout == "begun\n"
    refused = started(HOROVOD_ENABLE_XLA_OPS="1")
    assert refused.stdout == ""
    assert "expected HOROVOD_ENABLE_XLA_OPS not to be set, got 1: this Horovod" in refused.stderr
