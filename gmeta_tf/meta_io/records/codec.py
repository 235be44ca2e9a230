"""Episode records: the int32 words of one, and the index over them.

docs/meta_io.md describes every byte. A record is one episode, rows of one task, as little-endian
int32 words ("words" from here on):

    word 0        the format, 0x474D0002
    word 1        n, the number of rows
    words 2, 3    the task number, low word first
    word 4        the part: which episode of its task it is, from 0
    then planes of n words, column after column:
        the label (float32); where the schema has a weight, the row's (float32); each key field's
        slots (int32, -1 is padding; of a table with two words a key, the slots' low words and
        then their high words); each dense field (float32)

Key fields stand in the schema's order, and dense ones after them. The files are TFRecord files,
whose framing has a CRC-32C a record.
"""

from __future__ import annotations

import numpy as np

from gmeta_tf.schema import Schema

__all__ = [
    "FORMAT_VERSION",
    "WEIGHT_PLANE",
    "IndexEntry",
    "decode_episode",
    "encode_episode",
    "episode_headers",
    "num_planes",
    "num_row_planes",
    "slot_ranges",
]

FORMAT_VERSION = 2
MAGIC = 0x474D0002
HEADER_WORDS = 5
WEIGHT_PLANE = 1
TFRECORD_HEAD_BYTES = 12
TFRECORD_FRAME_BYTES = 16
IndexEntry = np.dtype(
    [
        ("offset", "<i8"),
        ("task", "<i8"),
        ("file", "<i4"),
        ("length", "<i4"),
        ("rows", "<i4"),
        ("part", "<i4"),
    ]
)


def num_planes(schema: Schema) -> int:
    """C, the words of a row in a record."""
    return max(last for _, last in slot_ranges(schema))


def num_row_planes(schema: Schema) -> int:
    """How many words a row has before those of its fields: the label and, if any, the weight."""
    return 1 if schema.weight is None else WEIGHT_PLANE + 1


def slot_ranges(schema: Schema) -> list[tuple[int, int]]:
    """The planes `[first, last)` of each field of the schema, in the schema's order.

    In a record key fields come first and dense ones last. Where a key takes two words, the first
    half of the planes holds the low words.
    """
    planes_of = {}
    plane = num_row_planes(schema)
    for field in (*schema.key_fields, *schema.dense_fields):
        words = 1 if field.kind == "dense" else schema.table(field.table_name).words_per_key
        planes_of[field.name] = (plane, plane + words * field.num_slots)
        plane += words * field.num_slots
    return [planes_of[field.name] for field in schema.fields]


def encode_episode(task: int, words: np.ndarray, part: int = 0) -> bytes:
    """The bytes of one record.

    Args:
        task: the task's number.
        words: the planes, int32 `[C, n]`.
        part: which episode of its task it is.
    """
    words = np.ascontiguousarray(words, "<i4")
    header = episode_headers(np.array([task]), np.array([words.shape[1]]), np.array([part]))
    return header.tobytes() + words.tobytes()


def decode_episode(record: bytes, planes: int) -> tuple[int, int, np.ndarray]:
    """The task, the part and the planes, int32 `[C, n]`, of one record.

    Raises:
        ValueError: the bytes are not a record of C planes.
    """
    header = np.frombuffer(record[: 4 * HEADER_WORDS], "<u4")
    if len(record) % 4 or len(header) < HEADER_WORDS or header[0] != MAGIC:
        raise ValueError(
            f"expected a record (first word {MAGIC:#x}), got {len(record)} bytes that begin with "
            f"{record[:4].hex() or 'nothing'}."
        )
    rows = int(header[1])
    if len(record) != 4 * (HEADER_WORDS + planes * rows):
        raise ValueError(
            f"expected a record of {rows} rows and {planes} planes, which is "
            f"{4 * (HEADER_WORDS + planes * rows)} bytes, got {len(record)}."
        )
    task = int(np.frombuffer(record[8:16], "<i8")[0])
    words = np.frombuffer(record, "<i4", offset=4 * HEADER_WORDS).reshape(planes, rows)
    return task, int(header[4]), words


def episode_headers(tasks: np.ndarray, rows: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The header words of records, uint32 `[records, 5]`."""
    tasks = np.asarray(tasks, np.int64)
    columns = (np.full(len(tasks), MAGIC), rows, tasks & 0xFFFFFFFF, tasks >> 32, parts)
    return np.stack([np.asarray(column, np.int64).astype("<u4") for column in columns], axis=1)
