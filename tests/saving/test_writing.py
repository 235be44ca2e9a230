"""Small files that are replaced at once, and what killed processes left of them."""

import fcntl

from gmeta_tf.saving import writing
from gmeta_tf.saving.writing import write_whole


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".report.json.4194305").write_text("hal")
    write_whole(tmp_path / "report.json", "whole")
    assert names_in(tmp_path) == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "whole"


def test_what_another_process_writes_stays_and_so_do_other_files(tmp_path):
    mine = [".report.json.bak", ".report.jsonl.12", ".other.json.12", "report.json.12"]
    for name in (*mine, ".report.json.12"):
        (tmp_path / name).write_text("x")
    with open(tmp_path / ".report.json.12", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_whole(tmp_path / "report.json", "whole")
    assert names_in(tmp_path) == sorted([*mine, ".report.json.12", "report.json"])


def test_one_that_was_removed_before_its_lock_is_made_anew(tmp_path, monkeypatch):
    real, made = writing.fcntl.flock, []

    def flock(file, how):
        """Another process comes just before the first lock."""
        if not made:
            made.extend(tmp_path.iterdir())
            made[0].unlink()
        real(file, how)

    monkeypatch.setattr(writing.fcntl, "flock", flock)
    write_whole(tmp_path / "report.json", "whole")
    assert len(made) == 1
    assert names_in(tmp_path) == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "whole"
