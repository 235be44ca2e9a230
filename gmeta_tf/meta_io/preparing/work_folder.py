"""Hidden folders to build in, that are swept when their process was killed; and the commits."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from gmeta_tf.meta_io import files

__all__ = ["check_output", "claimed", "replace_folder", "sweep", "work_folder"]

_LOCK = "lock"
_PREVIOUS = "previous"


def check_output(output: str | os.PathLike[str], *, overwrite: bool, append: bool) -> None:
    """Checks that records may be written to `output`, and touches nothing.

    Raises:
        ValueError: it exists and is not to be overwritten, or is not a records folder.
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
        if not described:
            raise ValueError(
                f"{name} is not a records folder (it has no schema.json) and is not overwritten. "
                "Move it away or choose another output."
            )


@contextlib.contextmanager
def work_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """A hidden folder beside `output`, gone at the end; those of dead processes are swept first.

    It holds a locked file. The system unlocks it when the process ends, in whatever way, which
    tells the next one that nobody needs the folder any more.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    sweep(output)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        # Under its own name only when it is locked, so that no sweeper finds it unlocked.
        with open(folder / "unlocked", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (folder / "unlocked").rename(folder / _LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(output: pathlib.Path) -> None:
    """Removes the work folders of `output` whose processes are gone.

    One that was killed between the two renamings of `replace_folder` has the older output, which
    is put back.
    """
    # By the beginning of the name and not by a pattern: the name may hold brackets.
    for folder in output.parent.iterdir():
        if not folder.name.startswith(f".{output.name}-") or not (folder / _LOCK).is_file():
            continue
        with contextlib.suppress(FileNotFoundError), open(folder / _LOCK, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if (folder / _PREVIOUS).is_dir() and not os.path.lexists(output):
                (folder / _PREVIOUS).rename(output)
            shutil.rmtree(folder, ignore_errors=True)


def replace_folder(built: pathlib.Path, output: pathlib.Path, work: pathlib.Path) -> None:
    """Renames `built` to `output`; what stood there goes to the work folder, and back if it fails.

    Raises:
        OSError: `built` cannot be renamed.
    """
    if not os.path.lexists(output):
        built.rename(output)
        return
    aside = work / _PREVIOUS
    output.rename(aside)
    try:
        built.rename(output)
    except OSError:
        aside.rename(output)
        raise


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
