"""Hidden folders to build in, that are swept when their process was killed; and the commits."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.disk import to_disk, tree_to_disk
from gmeta_tf.meta_io.records.file_names import problem_of_replacing
from gmeta_tf.meta_io.swap import swapped

__all__ = ["check_output", "claimed", "replace_folder", "sweep", "sweep_all", "work_folder"]

_LOCK = "lock"
_UNLOCKED = "unlocked"
_PREVIOUS = "previous"


def check_output(output: str | os.PathLike[str], *, overwrite: bool, append: bool) -> None:
    """Checks that records may be written to `output`, and touches nothing.

    Raises:
        ValueError: it exists and is not to be overwritten, or holds more than records.
        FileNotFoundError: no records folder to append to.
    """
    name, described = os.fspath(output), files.exists(files.join(output, "schema.json"))
    if append:
        if not described:
            raise FileNotFoundError(
                f"{name} is not a records folder: expected {files.join(output, 'schema.json')}. "
                f"Make one with `gmeta-tf prepare --output {name}`."
            )
    elif files.is_remote(output):
        if described:
            raise ValueError(
                f"{name} exists. A remote folder is not overwritten, as that cannot be done at "
                "once: remove it, or choose another output."
            )
    elif os.path.lexists(name):
        if not overwrite:
            raise ValueError(
                f"{name} exists. Pass overwrite=True to replace it, append=True to add to it, or "
                "choose another output (on the command line: --overwrite, --append)."
            )
        problem = problem_of_replacing(pathlib.Path(output))
        if problem is not None:
            raise ValueError(
                f"{name} is not a folder of records and nothing else ({problem}) and is not "
                "overwritten. Move it away or choose another output."
            )


@contextlib.contextmanager
def work_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """A hidden folder beside `output`, gone at the end; those of dead processes are swept first.

    It holds a locked file with the name of the output. The system unlocks it when the process
    ends, in whatever way, which tells the next one that nobody needs the folder any more.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    sweep(output)
    folder, lock = _locked_folder(output)
    try:
        yield folder
    finally:
        _remove(folder)
        lock.close()


def sweep(output: pathlib.Path) -> None:
    """Removes the work folders of `output` whose processes are gone.

    One that was killed between the two renamings of `replace_folder` has the older output, which
    is put back.
    """
    _sweep(output.parent, output.name)


def sweep_all(parent: pathlib.Path) -> None:
    """As `sweep`, for every output in a folder that need not be there."""
    if parent.is_dir():
        _sweep(parent, None)


def _sweep(parent: pathlib.Path, name: str | None) -> None:
    for folder in parent.iterdir():
        if not folder.name.startswith(".") or folder.is_symlink() or not folder.is_dir():
            continue
        lock = next((folder / n for n in (_LOCK, _UNLOCKED) if (folder / n).is_file()), None)
        if lock is None:
            _remove_if_just_begun(folder, name)
            continue
        with contextlib.suppress(FileNotFoundError), open(lock, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            of = _output_of(folder, file.read())
            if of is None or name not in (None, of):
                continue
            if (folder / _PREVIOUS).is_dir() and not os.path.lexists(parent / of):
                (folder / _PREVIOUS).rename(parent / of)
            _remove(folder)


def _remove(folder: pathlib.Path) -> None:
    """Removes a work folder as far as that is possible.

    The lock goes last: by it, half a removal is known as ours.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name in (_LOCK, _UNLOCKED):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if all(path.name in (_LOCK, _UNLOCKED) for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_just_begun(folder: pathlib.Path, name: str | None) -> None:
    """Removes the folder of a process that was killed before it made anything in it.

    One that is still alive makes another: see `_locked_folder`.
    """
    before, _, drawn = folder.name[1:].rpartition("-")
    if before and name in (None, before) and re.fullmatch(r"[a-z0-9_]{8}", drawn):
        with contextlib.suppress(OSError):  # it holds something
            folder.rmdir()


def _locked_folder(output: pathlib.Path) -> tuple[pathlib.Path, BinaryIO]:
    """A new folder, and the open file that holds its lock."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        file: BinaryIO | None = None
        try:
            file = open(folder / _UNLOCKED, "wb")  # noqa: SIM115, open as long as the lock is held
            file.write(os.fsencode(output.name))
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            # Under its own name only when it is locked.
            (folder / _UNLOCKED).rename(folder / _LOCK)
            return folder, file
        except FileNotFoundError:
            # A sweeper came before the lock, and took the folder for that of a dead process.
            _close(file)
        except BaseException:
            _close(file)
            _remove(folder)
            raise


def _close(file: BinaryIO | None) -> None:
    # On a full disk the name is still in its buffer, and closing raises, too; the file is closed.
    if file is not None:
        with contextlib.suppress(OSError):
            file.close()


def _output_of(folder: pathlib.Path, recorded: bytes) -> str | None:
    """The name of the output that a work folder is for; None where it is not known to be ours.

    Earlier versions recorded nothing, and a process may be killed before it has. Such folders end
    in a dash and letters and digits alone, so that what is before the dash is the whole name.
    """
    if recorded:
        name = os.fsdecode(recorded)
        return name if folder.name.startswith(f".{name}-") else None
    before, dash, drawn = folder.name[1:].rpartition("-")
    if not dash or not re.fullmatch(r"[a-z0-9_]+", drawn):
        return None
    is_begun = [path.name for path in folder.iterdir()] == [_UNLOCKED]
    return before if is_begun or (folder / _LOCK).is_file() else None


def replace_folder(built: pathlib.Path, output: pathlib.Path, work: pathlib.Path) -> None:
    """Gives `built` the name `output`; what stood there goes to the work folder.

    Who reads at that moment sees the one or the other. Only where the file system cannot exchange
    two names (`swap`) is the output absent between two renames; the older one goes back if the
    second fails. What was built is on the disk before it gets the name, and the name is when this
    returns.

    Raises:
        OSError: `built` cannot be renamed, or cannot get to the disk.
    """
    tree_to_disk(built)
    if not os.path.lexists(output):
        built.rename(output)
        to_disk(output.parent)
        return
    if swapped(built, output):
        to_disk(output.parent)
        return
    aside = work / _PREVIOUS
    output.rename(aside)
    try:
        built.rename(output)
    except OSError:
        aside.rename(output)
        raise
    to_disk(output.parent)


@contextlib.contextmanager
def claimed(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from appending to a records folder.

    Raises:
        ValueError: another one is at it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder}: expected to be the only process that appends to it, but another one "
                "does. Wait for it to end."
            ) from error
        yield
    finally:
        os.close(descriptor)
