"""Dense values that are too large to be learned from as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.meta_io.records.records import Records

__all__ = ["unscaled_fields"]

# Standardized values have a root mean square of 1. A plain year has 1990: the first layer's outputs
# then drown what the embeddings say, and one inner step goes astray.
_LARGEST_ROOT_MEAN_SQUARE = 10.0
_LARGEST = 1000.0
_ROWS_READ = 1 << 14


def unscaled_fields(records: Records) -> list[str]:
    """What to say of each dense field whose values a learner sees as they are, and are large.

    By what `prepare` counted in all training rows; of records of earlier
    versions by the first ones.

    Returns:
        Sentences with the remedy.
    """
    plain = [field.name for field in records.schema.dense_fields if field.transform == "none"]
    told: Mapping[str, Any] = records.details.get("dense_values") or {}
    if not set(plain) <= set(told):
        told = _of_first_rows(records, plain)
    warnings = []
    for name in plain:
        values = told[name]
        if values["mean"] is None:
            continue
        root_mean_square = math.hypot(values["mean"], values["deviation"])
        largest = max(abs(values["smallest"]), abs(values["largest"]))
        if root_mean_square <= _LARGEST_ROOT_MEAN_SQUARE and largest <= _LARGEST:
            continue
        transform = "log1p" if values["deviation"] > 10 * abs(values["mean"]) else "standardize"
        warnings.append(
            f"the dense field {name!r} has values from {values['smallest']:g} to "
            f"{values['largest']:g} (mean {values['mean']:g}) and no transform; learners want "
            "values of about 1, and may not train at all with such. State "
            f"`transform: {transform}` (or minmax, log1p, bucketize) for it in the schema, and "
            "prepare anew."
        )
    return warnings


def _of_first_rows(records: Records, fields: list[str]) -> dict[str, dict[str, Any]]:
    """The same as `prepare` tells, of the first rows of the training split."""
    ranges = dict(
        zip(
            (field.name for field in records.schema.fields),
            slot_ranges(records.schema),
            strict=True,
        )
    )
    found: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in fields}
    num_rows = 0
    for _, words in records.read(records.splits[0]):
        for name in fields:
            values = words[ranges[name][0]].view(np.float32).astype(np.float64)
            found[name].append(values[np.isfinite(values)])
        num_rows += words.shape[1]
        if num_rows >= _ROWS_READ:
            break
    told = {}
    for name, parts in found.items():
        values = np.concatenate(parts)
        told[name] = {
            "mean": float(values.mean()) if len(values) else None,
            "deviation": float(values.std()) if len(values) else None,
            "smallest": float(values.min()) if len(values) else None,
            "largest": float(values.max()) if len(values) else None,
        }
    return told
