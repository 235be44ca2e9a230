"""What the first episodes of a split tell of its rows."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from gmeta_tf.meta_io.records.codec import slot_ranges
from gmeta_tf.meta_io.records.records import Records

__all__ = ["FirstLook", "first_look"]


class FirstLook(NamedTuple):
    """What the first episodes of a split tell.

    Attributes:
        task_fields: the names of the key fields that are the same in all rows of an episode: they
            describe the task, as a user's age does.
        mean: of the labels as they stand in the data; 0 of a split without rows.
        deviation: the labels' standard deviation; 1 where all are equal.
    """

    task_fields: tuple[str, ...]
    mean: float
    deviation: float


def first_look(records: Records, split: str, num_episodes: int = 256) -> FirstLook:
    """Reads the first episodes of a split.

    Args:
        records: the data.
        split: which part of them.
        num_episodes: how many to read; those of a single row tell nothing of fields.
    """
    ranges = dict(zip(records.schema.fields, slot_ranges(records.schema), strict=True))
    constant = dict.fromkeys(records.schema.key_fields, True)
    several, labels = False, [np.zeros(0, np.float32)]
    for _, words in itertools.islice(records.read(split), num_episodes):
        labels.append(words[0].view(np.float32))
        several |= words.shape[1] > 1
        for field in constant:
            planes = words[slice(*ranges[field])]
            constant[field] &= bool((planes == planes[:, :1]).all())
    known = np.concatenate(labels).astype(np.float64)
    deviation = float(known.std()) if len(known) else 0.0
    return FirstLook(
        tuple(field.name for field, is_so in constant.items() if several and is_so),
        float(known.mean()) if len(known) else 0.0,
        deviation if deviation > 0 else 1.0,
    )
