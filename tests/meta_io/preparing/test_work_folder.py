"""A work folder belongs to the output that is recorded in it, and to no other."""

import errno
import io
import pathlib

import pytest

from gmeta_tf.meta_io.preparing import work_folder as module
from gmeta_tf.meta_io.preparing.work_folder import replace_folder, sweep, sweep_all, work_folder


def left_by_a_killed_one(output, drawn="abcd1234", *, recorded=True):
    """What a process leaves that was killed between the two renamings of `replace_folder`."""
    work = output.parent / f".{output.name}-{drawn}"
    (work / "previous").mkdir(parents=True)
    (work / "previous" / "schema.json").write_text(output.name)
    (work / "lock").write_text(output.name if recorded else "")
    return work


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "of an earlier version"])
def test_the_only_copy_of_an_output_with_a_longer_name_stays(recorded, tmp_path):
    work = left_by_a_killed_one(tmp_path / "records-2", recorded=recorded)
    with work_folder(tmp_path / "records"):
        pass
    assert (work / "previous" / "schema.json").read_text() == "records-2"
    assert not (tmp_path / "records").exists()
    with work_folder(tmp_path / "records-2"):
        assert (tmp_path / "records-2" / "schema.json").read_text() == "records-2"
    assert not work.exists()


@pytest.mark.parametrize("name", ["records-2", "a b", "x[1]", "é", "-"])
def test_each_name_is_found_again(name, tmp_path):
    left_by_a_killed_one(tmp_path / name)
    sweep(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_folders_that_only_look_like_ours_stay(tmp_path):
    other = left_by_a_killed_one(tmp_path / "records")
    (other / "lock").write_text("something else")
    mine = tmp_path / ".records-mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    left_by_a_killed_one(tmp_path / "elsewhere" / "records")
    (tmp_path / ".records-linked12").symlink_to(tmp_path / "elsewhere" / ".records-abcd1234")
    sweep(tmp_path / "records")
    sweep_all(tmp_path)
    assert (mine / "thesis.tex").read_text() == "mine"
    assert (other / "previous").is_dir()
    assert (tmp_path / "elsewhere" / ".records-abcd1234" / "previous").is_dir()
    assert not (tmp_path / "records").exists()


def test_an_output_that_is_there_is_not_replaced_by_the_older_one(tmp_path):
    left_by_a_killed_one(tmp_path / "records")
    (tmp_path / "records").mkdir()
    sweep(tmp_path / "records")
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
    assert list((tmp_path / "records").iterdir()) == []


def test_of_all_outputs(tmp_path):
    for name in ("a", "b-2"):
        left_by_a_killed_one(tmp_path / name)
    sweep_all(tmp_path)
    sweep_all(tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b-2"]


def test_one_that_was_killed_before_it_had_its_lock(tmp_path):
    begun = tmp_path / ".records-abcd1234"
    begun.mkdir()
    (begun / "unlocked").touch()
    sweep(tmp_path / "records-2")
    assert begun.is_dir()
    sweep(tmp_path / "records")
    assert not begun.exists()


def test_one_that_was_killed_before_it_had_anything(tmp_path):
    begun, longer = tmp_path / ".records-abcd1234", tmp_path / ".records-2-abcd1234"
    mine, used = tmp_path / ".records-mine", tmp_path / ".records-wxyz5678"
    for folder in (begun, longer, mine, used):
        folder.mkdir()
    (used / "thesis.tex").write_text("mine")
    sweep(tmp_path / "records")
    assert not begun.exists()
    assert longer.is_dir()
    assert mine.is_dir()
    assert (used / "thesis.tex").read_text() == "mine"
    sweep_all(tmp_path)
    assert not longer.exists()
    assert mine.is_dir()


def test_half_a_removal_is_ended_by_the_next_process(tmp_path, monkeypatch):
    """The process is killed while it removes, or may not open another file."""
    removed = []

    def rmtree(path, **_):
        removed.append(path)

    with work_folder(tmp_path / "records") as work:
        (work / "built").mkdir()
        (work / "built" / "x").touch()
        monkeypatch.setattr(module.shutil, "rmtree", rmtree)
    assert removed == [work / "built"]
    assert (work / "lock").read_text() == "records"
    monkeypatch.undo()
    sweep(tmp_path / "records")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", ["open", "write"])
def test_no_folder_is_left_where_its_lock_cannot_be_made(fails, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Full(io.RawIOBase):
        def writable(self):
            return True

        write = full

    made = full if fails == "open" else lambda *_: io.BufferedWriter(Full())
    monkeypatch.setattr(module, "open", made, raising=False)
    with pytest.raises(OSError, match="No space left"), work_folder(tmp_path / "records"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_swept_before_its_lock_is_made_anew(tmp_path, monkeypatch):
    made, real, real_flock = [], module.tempfile.mkdtemp, module.fcntl.flock

    def mkdtemp(**options):
        folder = real(**options)
        made.append(folder)
        return folder

    def flock(file, how):
        """Another process comes just before the first lock."""
        monkeypatch.setattr(module.fcntl, "flock", real_flock)
        sweep(tmp_path / "records")

    monkeypatch.setattr(module.tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setattr(module.fcntl, "flock", flock)
    with work_folder(tmp_path / "records") as work:
        assert str(work) == made[1]
        assert (work / "lock").read_text() == "records"
    assert list(tmp_path.iterdir()) == []


def test_it_is_another_process_s_while_it_is_used(tmp_path):
    with work_folder(tmp_path / "records") as work:
        (work / "built").mkdir()
        sweep(tmp_path / "records")
        sweep_all(tmp_path)
        assert (work / "built").is_dir()
        replace_folder(work / "built", pathlib.Path(tmp_path / "records"), work)
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def made(folder, text):
    folder.mkdir(parents=True)
    (folder / "schema.json").write_text(text)
    return folder


@pytest.mark.parametrize("can_swap", [True, False])
def test_what_is_replaced_goes_with_the_work_folder(can_swap, tmp_path, monkeypatch):
    if not can_swap:
        monkeypatch.setattr(module, "swapped", lambda *_: False)
    output = made(tmp_path / "records", "older")
    with work_folder(output) as work:
        replace_folder(made(work / "built", "newer"), output, work)
        assert (output / "schema.json").read_text() == "newer"
        assert (work / ("built" if can_swap else "previous") / "schema.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_the_output_is_there_at_every_moment(tmp_path, monkeypatch):
    """No rename takes the output's name away before another one has it."""
    output = made(tmp_path / "records", "older")
    monkeypatch.setattr(pathlib.Path, "rename", lambda *_: pytest.fail("renamed"))
    replace_folder(made(tmp_path / "work" / "built", "newer"), output, tmp_path / "work")
    assert (output / "schema.json").read_text() == "newer"


def test_without_an_exchange_the_older_one_comes_back_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "swapped", lambda *_: False)
    output = made(tmp_path / "records", "older")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(module, "tree_to_disk", lambda _: None)
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "work" / "built", output, tmp_path / "work")
    assert (output / "schema.json").read_text() == "older"
