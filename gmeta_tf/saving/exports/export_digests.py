"""The digests of an export's files, beside them: what was changed since is not served."""

from __future__ import annotations

import json
import logging
import pathlib

from gmeta_tf.distributed.world import World
from gmeta_tf.meta_io.digest import digest_of_parts
from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.sealed_json import fault_of_seal, sealed
from gmeta_tf.saving.digests import check_files, share_of
from gmeta_tf.saving.exports.export_version import VERSION

__all__ = ["DIGESTS", "check_export", "write_digests"]

DIGESTS = "assets.extra/digests.json"
_LOG = logging.getLogger(__name__)


def write_digests(folder: pathlib.Path) -> None:
    """Writes the digest of each file of a new export."""
    files = {
        path.relative_to(folder).as_posix(): digest_of_parts(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / DIGESTS).write_text(sealed({"files": files}), encoding="utf-8")


def check_export(folder: pathlib.Path) -> None:
    """Reads all of an export and compares it with its digests, before TensorFlow reads it.

    Exports of earlier versions have none; a line of the log says that nothing was compared.

    Raises:
        ValueError: a file is missing, or is not what was exported.
    """
    if not (folder / DIGESTS).exists():
        if (folder / VERSION).exists():  # which came later than digests
            raise _damaged(folder, f"{folder / DIGESTS} is missing")
        _LOG.warning(
            "%s was exported by an earlier version, without digests: changed bytes in it cannot "
            "be found. Exporting again writes them.",
            folder,
        )
        return
    check_inside(folder, DIGESTS)
    content = (folder / DIGESTS).read_bytes()
    if fault := fault_of_seal(content):
        raise _damaged(folder, f"{folder / DIGESTS} {fault}")
    files = json.loads(content)["files"]
    for name in files:
        check_inside(folder, name)
    for fault in check_files(folder, files, share_of(files, World())):
        raise _damaged(folder, fault)


def _damaged(folder: pathlib.Path, what: str) -> ValueError:
    return ValueError(
        f"the exported model {folder} is damaged or incomplete: {what}. Export it again."
    )
