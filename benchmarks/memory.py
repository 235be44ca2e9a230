"""What Linux says of this process' memory."""

from __future__ import annotations

import pathlib
import re

__all__ = ["forget_peak", "resident_bytes"]


def resident_bytes(name: str) -> int:
    """`VmRSS`, resident now, or `VmHWM`, at most so far (proc_pid_status(5)).

    Raises:
        RuntimeError: there is no such line: this is not Linux.
    """
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"expected a line {name} in /proc/self/status, as Linux has.")
    return 1024 * int(found[1])


def forget_peak() -> None:
    """Has `VmHWM` begin anew from what is resident now (proc_pid_clear_refs(5))."""
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
