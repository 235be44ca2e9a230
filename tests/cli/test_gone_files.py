"""Records that are replaced while a command reads them: one line that names the file."""

import pytest
import tensorflow as tf

from gmeta_tf.cli import main as cli


def test_it_is_one_line_and_status_1(tmp_path, monkeypatch, capsys):
    def read(_):
        path = str(tmp_path / "train-000.tfrecord")
        for _record in tf.data.TFRecordDataset(path):
            pass

    monkeypatch.setitem(cli._FIRST_CHECKS, "evaluate", read)
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "--run", "run"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"gmeta-tf evaluate: {tmp_path / 'train-000.tfrecord'} is gone: it was removed or replaced "
        "while it was read. Start again."
    )
