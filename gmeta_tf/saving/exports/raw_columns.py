"""Columns of raw rows as a served model takes them, by the rules of `prepare`."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from gmeta_tf.number_texts import WHITE_SPACE, number

__all__ = ["numbers_of", "tasks_of", "texts_of"]


def texts_of(values: np.ndarray, place: str, separator: str | None = None) -> np.ndarray:
    """The texts that stand for values to be looked up.

    Args:
        values: texts, integers, truth values, None or NaN (missing), `[n]`; with a separator
            also lists of those.
        place: for messages, such as `query.csv, column 'item'`.
        separator: what the values of a list are joined with.

    Returns:
        str objects `[n]`; an empty one is a missing value.

    Raises:
        ValueError: a value of another type, or a separator in a value of a list.
    """
    values = np.asarray(values)
    if values.dtype.kind in "iu":
        return values.astype(str).astype(object)
    texts = np.empty(len(values), object)
    for row, value in enumerate(values.tolist()):
        where = f"{place}, row {row + 1} (counted from 1, without headers)"
        if isinstance(value, list | tuple | np.ndarray) and separator is not None:
            # What is masked in an array is None in a list.
            parts = value.tolist() if isinstance(value, np.ndarray) else value
            texts[row] = _joined([_text(part, where) for part in parts], separator, where)
        else:
            texts[row] = _text(value, where)
    return texts


def tasks_of(values: np.ndarray, place: str) -> np.ndarray:
    """The texts that name tasks, without white space around them.

    Raises:
        ValueError: a row without a task, or a value that is no text and no integer.
    """
    texts = texts_of(values, place)
    for row, text in enumerate(texts):
        texts[row] = text.strip(WHITE_SPACE)
        if not texts[row]:
            raise ValueError(
                f"{place}, row {row + 1} (counted from 1, without headers): expected a task, got "
                f"{values[row]!r}. Leave the row out, or say whose it is."
            )
    return texts


def numbers_of(
    values: np.ndarray, place: str, *, may_miss: bool = False, least: float = -np.inf
) -> np.ndarray:
    """Finite numbers, float32 `[n]`.

    Args:
        values: numbers, or texts of numbers, `[n]`.
        place: for messages.
        may_miss: whether a value may be missing (None, NaN or a blank text), which is NaN then.
        least: the smallest that there may be.

    Raises:
        ValueError: a value that is missing and may not be, no number (`number_texts` has the rule
            for texts), not finite as a float32, or below `least`.
    """
    values = np.asarray(values)
    numbers = np.full(len(values), np.nan, np.float32)
    with np.errstate(over="ignore"):
        if values.dtype.kind in "iufb":
            numbers = values.astype(np.float32)
        else:
            for row, value in enumerate(values.tolist()):
                with contextlib.suppress(TypeError, ValueError):
                    numbers[row] = number(value) if isinstance(value, str) else float(value)
    wrong = ~(np.isfinite(numbers) & (numbers >= least))
    if may_miss:
        wrong &= ~np.array([_is_missing(value) for value in values.tolist()], bool)
    (bad,) = np.nonzero(wrong)
    if bad.size:
        raise ValueError(
            f"{place}, row {bad[0] + 1} (counted from 1, without headers): expected a finite "
            f"number{'' if least == -np.inf else f' of at least {least:g}'}, got "
            f"{values[bad[0]]!r}. Correct the row, or leave it out."
        )
    return numbers


def _is_missing(value: Any) -> bool:
    is_blank = isinstance(value, str) and not value.strip(WHITE_SPACE)
    return value is None or is_blank or value != value


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or value != value:  # pandas writes a missing text as NaN
        return ""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(value)
    raise ValueError(
        f"{where}: expected a text, an integer, true or false, or None for a missing value, got "
        f"{type(value).__name__} {value!r}. Give the text that `gmeta-tf prepare` read."
    )


def _joined(parts: list[str], separator: str, where: str) -> str:
    for part in parts:
        if separator in part:
            raise ValueError(
                f"{where}: expected values without the field's separator {separator!r}, got "
                f"{part!r}. Change the separator in the schema, and prepare and train anew."
            )
    return separator.join(parts)
