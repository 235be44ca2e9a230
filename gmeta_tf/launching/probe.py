"""What a host is, as one JSON line; `gmeta-tf launch` runs it on each.

python -m gmeta_tf.launching.probe
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import socket
import sys
import time
from typing import Any

from gmeta_tf.launching.containers import available_memory_bytes
from gmeta_tf.launching.cores import usable_cores
from gmeta_tf.launching.devices import default_interface
from gmeta_tf.launching.messages import ADDRESS, connect

__all__ = ["facts", "own_address"]

_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "horovod", "numpy", "protobuf")


def facts(folder: str = ".") -> dict[str, Any]:
    """A host's versions, memory, disk, clock and name: JSON values.

    Args:
        folder: whose free disk is told.
    """
    return {
        "name": socket.gethostname(),
        "address": own_address(),
        "versions": {
            "Python": platform.python_version(),
            "gmeta_tf": _digest_of_code(),
            **{name: version for name in _PACKAGES if (version := _version(name))},
        },
        "cores": usable_cores(),
        "memory_bytes": available_memory_bytes(),
        "disk_bytes": shutil.disk_usage(folder).free,
        "interface": default_interface(),
        "launcher": _reaches_launcher(),
        "clock": time.time(),
    }


def own_address() -> str | None:
    """What this host's own name resolves to, where Horovod's connections are bound; None if not."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest_of_code() -> str:
    """Eight digits of a digest of the package's files: versions under development have one name."""
    package = pathlib.Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return f"{_version('gmeta_tf') or 'not installed'} ({digest.hexdigest()[:8]})"


def _reaches_launcher() -> str:
    """ "yes", "not asked", or why not."""
    if ADDRESS not in os.environ:
        return "not asked"
    try:
        connect(rank=None).close()
    except OSError as error:
        return str(error)
    return "yes"


if __name__ == "__main__":
    json.dump(facts(), sys.stdout)
    print()
