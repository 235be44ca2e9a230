"""The version of an exported model that a server answers with, and the next one in its place."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import threading
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.saving.exports.export_digests import check_export
from gmeta_tf.saving.exports.version_folders import versions_in
from gmeta_tf.saving.exports.warm_up import blank_inputs

__all__ = ["ServedVersion", "ServedVersions"]

_LOG = logging.getLogger(__name__)
Identity = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ServedVersion:
    """A loaded model.

    Attributes:
        number: its version.
        path: where it was loaded from.
        signatures: name -> the function to call.
        described: the signatures as the SavedModel describes them.
        loaded: the loaded object, whose variables the functions read.
    """

    number: int
    path: pathlib.Path
    signatures: dict[str, Any]
    described: Any
    loaded: Any

    @classmethod
    def load(cls, number: int, path: pathlib.Path) -> ServedVersion:
        """Loads an export whose files are as they were written, and calls it once.

        Raises:
            ValueError: a file is missing or was changed, or it is no SavedModel.
        """
        check_inside(path, "saved_model.pb")
        check_export(path)
        try:
            proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
            loaded = tf.saved_model.load(str(path))
        except Exception as error:  # TensorFlow raises what it likes of a broken model
            raise ValueError(f"{path} cannot be loaded: {error}. Export it again.") from error
        version = cls(
            number, path, dict(loaded.signatures), proto.meta_graphs[0].signature_def, loaded
        )
        version._warm_up()
        return version

    def _warm_up(self) -> None:
        """The first call of a function takes long; no request should wait for it."""
        for signature in self.signatures.values():
            with contextlib.suppress(tf.errors.OpError):  # as of a table that refuses unknown keys
                signature(**blank_inputs(signature))


class ServedVersions:
    """The newest version of a folder, loaded; a newer one takes its place once it is loaded too.

    Who has taken `current` keeps it for as long as it is needed, so that no request is dropped
    where versions change.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Loads the newest version that is whole.

        Args:
            folder: an exported model, which is version 1; or a folder of versions.

        Raises:
            FileNotFoundError: neither of them.
            ValueError: no version is whole.
        """
        self.folder = folder
        self._lock = threading.Lock()
        self._identity: Identity | None = None
        self._failed: set[Identity] = set()
        self._current: ServedVersion | None = None
        found = self._found()
        if not found:
            raise FileNotFoundError(
                f"{folder} holds no exported model: expected saved_model.pb, or folders of "
                f"versions such as {folder / '1'}. Make one with `gmeta-tf export --versions "
                f"{folder}`."
            )
        errors = self.look()
        if self._current is None:
            raise ValueError(errors[0])

    @property
    def current(self) -> ServedVersion:
        """The version to answer with."""
        assert self._current is not None  # nothing takes a version without putting another
        return self._current

    def look(self) -> list[str]:
        """Loads the newest version, if it is not the current one; passes over what is not whole.

        Returns:
            What was wrong with those that were passed over, each of which is logged once.
        """
        errors = []
        with self._lock:
            for number, path in reversed(self._found().items()):
                identity = _identity_of(number, path)
                if identity is None or identity in self._failed:
                    continue
                if identity == self._identity:
                    break
                try:
                    version = ServedVersion.load(number, path)
                except (OSError, ValueError) as error:
                    if _identity_of(number, path) == identity:
                        if isinstance(error, ValueError):  # a file that cannot be read may be later
                            self._failed.add(identity)
                        _LOG.error("version %d is not served: %s", number, error)
                        errors.append(str(error))
                        continue
                    break  # it was replaced meanwhile: the next look finds what it is now
                if _identity_of(number, path) != identity:
                    break  # half of it may be of another export
                self._current, self._identity = version, identity
                break
        return errors

    def _found(self) -> dict[int, pathlib.Path]:
        if (self.folder / "saved_model.pb").is_file():
            return {1: self.folder}
        return versions_in(self.folder)


def _identity_of(number: int, path: pathlib.Path) -> Identity | None:
    """What differs where another export stands in the place of one."""
    try:
        found = (path / "saved_model.pb").stat()
    except OSError:
        return None
    return number, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
