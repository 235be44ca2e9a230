"""What a container may use of its machine: the limits of cgroup v1 and v2."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

__all__ = ["available_memory_bytes", "cpu_quota", "memory_limit_bytes"]

# cgroup v1 writes "no limit" as the largest multiple of a page.
_NO_LIMIT = 1 << 60


def cpu_quota(root: str = "/") -> float | None:
    """The cores' worth of time that the container gets; None is without limit.

    Args:
        root: the folder that is the machine's `/`.
    """
    quotas = []
    for group in _groups(root, ""):
        words = _read(group / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
    for group in _groups(root, "cpu"):
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit_bytes(root: str = "/") -> int | None:
    """The most memory that the container gets; None is without limit.

    Args:
        root: the folder that is the machine's `/`.
    """
    limits = [_read(group / "memory.max") for group in _groups(root, "")]
    limits += [_read(group / "memory.limit_in_bytes") for group in _groups(root, "memory")]
    known = [int(limit) for limit in limits if limit.isdigit() and int(limit) < _NO_LIMIT]
    return min(known, default=None)


def available_memory_bytes(root: str = "/") -> int | None:
    """The memory that is free for a new process, in the machine and in the container's limit."""
    there = None
    for line in _read(pathlib.Path(root) / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            there = int(rest.split()[0]) * 1024
    limit = memory_limit_bytes(root)
    if limit is None:
        return there
    used = 0
    for kind, name in (("", "memory.current"), ("memory", "memory.usage_in_bytes")):
        for group in _groups(root, kind):
            text = _read(group / name)
            used = max(used, int(text) if text.isdigit() else 0)
    left = max(0, limit - used)
    return left if there is None else min(there, left)


def _groups(root: str, controller: str) -> Iterator[pathlib.Path]:
    """The process' group and those that it is in; "" is the one tree of version 2.

    In a container the tree often begins at the container's own group, whatever its name says.
    """
    top = pathlib.Path(root) / "sys/fs/cgroup" / controller
    own = ""
    for line in _read(pathlib.Path(root) / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = path.strip("/")
    group = top / own
    while group != top:
        if ".." not in group.parts:
            yield group
        group = group.parent
    yield top


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
