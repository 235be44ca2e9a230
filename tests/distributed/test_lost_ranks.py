"""When another rank is lost, a rank says one sentence."""

import pytest

from gmeta_tf.cli import main as cli
from gmeta_tf.distributed.lost_ranks import LostRankError
from gmeta_tf.distributed.world import World

GONE = RuntimeError(
    "Graph execution error:\n\nDetected at node x\nHorovod has been shut down. This was caused by"
)


@pytest.mark.parametrize("error", [GONE, LostRankError(World(0, 1))], ids=["in a step", "told"])
def test_of_a_command_it_is_one_line_and_status_1(error, monkeypatch, capsys):
    def lost(_):
        raise error

    monkeypatch.setitem(cli._FIRST_CHECKS, "train", lost)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--records", "records", "--run", "run"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gmeta-tf train: rank 0 stopped because another rank did; ")
    assert "its exit code (137: often too little memory)" in line
    assert line.endswith("`gmeta-tf train --resume` goes on.")
