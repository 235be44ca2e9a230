"""A run's `log.txt`, read back into curves."""

from __future__ import annotations

import math
import pathlib
import re
from typing import NamedTuple

__all__ = ["Curve", "read_log"]

# A name may hold spaces: a table of the user's is in it.
_PAIR = re.compile(r"  (.+?) (-?(?:\d[\d.]*(?:e[+-]?\d+)?|nan|inf))(?=  |$)")
_LINE = re.compile(rf"epoch (\d+)((?:{_PAIR.pattern})+)")


class Curve(NamedTuple):
    """One value over the epochs.

    Attributes:
        epochs: from 1 on, ascending.
        values: one for each; NaN where the run had none.
    """

    epochs: list[int]
    values: list[float]


def read_log(path: pathlib.Path) -> dict[str, Curve]:
    """Reads the lines that `RunFolder` writes, `epoch 3  loss 0.4123  input_wait 0.02`.

    An epoch that was trained again, after a run went on from an earlier checkpoint, counts as it
    was trained last. A last line without its end is one that a killed run was writing, and is left
    out.

    Args:
        path: the file; a run that has not ended an epoch has none.

    Returns:
        Name -> its curve, in the order in which the log names them.

    Raises:
        ValueError: a line that `RunFolder` does not write.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "log.txt"
        >>> _ = path.write_text("epoch 1  loss 0.5\\nepoch 2  loss 0.25\\nepoch 3  lo")
        >>> read_log(path)
        {'loss': Curve(epochs=[1, 2], values=[0.5, 0.25])}
    """
    if not path.is_file():
        return {}
    by_name: dict[str, dict[int, float]] = {}
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n") or not line.strip():
            continue
        found = _LINE.fullmatch(line.rstrip("\n"))
        if found is None:
            raise ValueError(
                f"{path}, line {number}: expected `epoch 3  loss 0.4123 ...`, got "
                f"{line.strip()[:80]!r}. Restore the file, or move it away."
            )
        for name, value in _PAIR.findall(found[2]):
            by_name.setdefault(name, {})[int(found[1])] = float(value)
    return {name: _curve(values) for name, values in by_name.items()}


def _curve(values: dict[int, float]) -> Curve:
    epochs = sorted(values)
    finite = [values[e] if math.isfinite(values[e]) else math.nan for e in epochs]
    return Curve(epochs, finite)
