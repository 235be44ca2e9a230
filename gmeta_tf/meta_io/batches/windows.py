"""Windows of records: read, check, and pick the rows of each task sample, in TensorFlow ops."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from gmeta_tf.meta_io import files
from gmeta_tf.meta_io.batches.plan import EpochPlan, Window
from gmeta_tf.meta_io.batches.shutdown_guard import until_shutdown, while_running
from gmeta_tf.meta_io.records.codec import HEADER_WORDS, episode_headers
from gmeta_tf.meta_io.records.frames import frame_contents

__all__ = ["WindowReader"]

_PARALLEL_READS = 4
_MOST_READERS = 8
# Stands behind the last block of a window; missing rows read it.
_NOTHING = np.full(1, -1, "<i4").tobytes()


@dataclasses.dataclass(frozen=True)
class WindowReader:
    """Reads the records that plans name, in the plans' order.

    Attributes:
        files: the paths of the split's files.
        planes: C of the schema.
        compression: of each record.
        shape: a plan whose sizes are those of all plans.
        rank: whose windows.
    """

    files: list[str]
    planes: int
    compression: str
    shape: EpochPlan
    rank: int

    def steps(
        self, plan_of: Callable[[int], EpochPlan], first_epoch: int | tf.Tensor
    ) -> tf.data.Dataset:
        """The steps of an epoch, then those of the epochs after it: see `TaskBatches.picked`.

        Args:
            plan_of: the plan of an epoch.
            first_epoch: counted from 0.
        """
        described = _Described(plan_of, self._described)
        return (
            until_shutdown()
            .scan(
                tf.stack([tf.cast(first_epoch, tf.int64), tf.constant(0, tf.int64)]),
                functools.partial(self._next_window, described),
            )
            .prefetch(1)
            .flat_map(self._read)
            .map(self._pick, num_parallel_calls=2, deterministic=True)
            .scan(self._nothing_waits(), self._full_steps)
            .prefetch(1)
            .flat_map(self._in_order)
        )

    def _next_window(
        self, described: _Described, position: tf.Tensor, _: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, Any]]:
        """Calls Python once for each window; the rest is TensorFlow's."""
        signature = self._signature()
        specs = tf.nest.flatten(signature)
        # Not Dataset.from_generator, which may call Python during interpreter shutdown.
        position, *values = tf.numpy_function(
            described.next, [position], [tf.int64, *(spec.dtype for spec in specs)]
        )
        for value, spec in zip(values, specs, strict=True):
            value.set_shape(spec.shape)
        return tf.ensure_shape(position, [2]), tf.nest.pack_sequence_as(signature, values)

    def _described(self, plan: EpochPlan) -> Iterator[list[np.ndarray]]:
        """A plan's windows as the tensors of `_signature`, flat."""
        for window in plan.windows(self.rank):
            yield tf.nest.flatten(self._described_window(plan, window))

    def _described_window(self, plan: EpochPlan, window: Window) -> dict[str, Any]:
        entries = plan.entries(window)
        rows = entries["rows"]
        starts, block_words = self._layout(rows, window.blocks[:, 3])
        nothing = len(block_words) * block_words.max(initial=1)
        # One record more than the window has: the empty one, for samples of record -1.
        first_rows = np.append(starts + HEADER_WORDS, nothing).astype(np.int32)
        strides = np.append(rows, 0).astype(np.int32)
        tasks = np.append(plan.index["task"][window.records], -1)
        samples = tuple(
            {
                "first_words": np.where(place < 0, np.int32(nothing), place + first_rows[record]),
                "stride": strides[record],
                "task": tasks[part.record],
                "num_support": part.num_support.astype(np.int32),
                "num_query": part.num_query.astype(np.int32),
            }
            for part, (record, place) in zip(window.samples, plan.row_places(window), strict=True)
        )
        return {
            "blocks": window.blocks,
            "block_words": block_words.astype(np.int32),
            "headers": episode_headers(entries["task"], rows, entries["part"]).view("<i4"),
            "starts": starts.astype(np.int32),
            "place": np.stack([entries["file"], entries["offset"]], axis=1).astype(np.int64),
            "samples": samples,
            "steps": window.steps.astype(np.int64),
        }

    def _layout(self, rows: np.ndarray, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each record of a window begins, and the words of each block.

        Every block has room for as many words as the longest.

        Args:
            rows: of each record.
            records: how many each block has.
        """
        words = HEADER_WORDS + self.planes * rows.astype(np.int64)
        ends = np.append(0, np.cumsum(words))
        last = np.cumsum(records)
        begins = ends[last - records]
        block_words = ends[last] - begins
        room = np.arange(len(records)) * block_words.max(initial=1)
        return ends[:-1] + np.repeat(room - begins, records), block_words

    def _signature(self) -> dict[str, Any]:
        # With several buckets the shapes of steps differ, and tf.data must not know one of them.
        rows = self.shape.capacities[0] if self.shape.buckets == 1 else None
        sample = {
            "first_words": tf.TensorSpec([None, rows], tf.int32),
            "stride": tf.TensorSpec(
                [None, 1 if self.shape.one_record_a_sample else rows], tf.int32
            ),
            "task": tf.TensorSpec([None], tf.int64),
            "num_support": tf.TensorSpec([None], tf.int32),
            "num_query": tf.TensorSpec([None], tf.int32),
        }
        return {
            "blocks": tf.TensorSpec([None, 4], tf.int64),
            "block_words": tf.TensorSpec([None], tf.int32),
            "headers": tf.TensorSpec([None, HEADER_WORDS], tf.int32),
            "starts": tf.TensorSpec([None], tf.int32),
            "place": tf.TensorSpec([None, 2], tf.int64),
            "samples": (sample,) * self.shape.buckets,
            "steps": tf.TensorSpec([None], tf.int64),
        }

    def _read(self, window: dict[str, Any]) -> tf.data.Dataset:
        """The window and the bytes of its blocks, strings `[G + 1]`."""
        blocks = tf.data.Dataset.from_tensor_slices(window["blocks"])
        is_in_graph = all(map(files.is_opened_by_tensorflow, self.files))
        read = self._read_in_graph if is_in_graph else self._read_by_python
        joined = (
            read(blocks)
            .concatenate(tf.data.Dataset.from_tensors(tf.constant(_NOTHING)))
            .batch(tf.shape(window["blocks"], out_type=tf.int64)[0] + 1)
        )
        return tf.data.Dataset.zip((tf.data.Dataset.from_tensors(window), joined))

    def _read_in_graph(self, blocks: tf.data.Dataset) -> tf.data.Dataset:
        return blocks.interleave(
            self._read_block,
            cycle_length=_PARALLEL_READS,
            num_parallel_calls=_PARALLEL_READS,
            deterministic=True,
        )

    def _read_by_python(self, blocks: tf.data.Dataset) -> tf.data.Dataset:
        """As `_read_in_graph`, of files that TensorFlow cannot open: one Python call a block."""
        return while_running(blocks).map(
            lambda block: tf.ensure_shape(tf.numpy_function(self._fetched, [block], tf.string), []),
            num_parallel_calls=_PARALLEL_READS,
            deterministic=True,
        )

    def _fetched(self, block: np.ndarray) -> bytes:
        file, offset, num_bytes, _ = block.tolist()
        content = files.read_range(self.files[file], offset, offset + num_bytes)
        records = frame_contents(content, offset)
        if self.compression == "zlib":
            try:
                records = [zlib.decompress(record) for record in records]
            except zlib.error as error:
                raise ValueError(f"inflate() failed: {error}") from error  # as TensorFlow words it
        return b"".join(records)

    def _read_block(self, block: tf.Tensor) -> tf.data.Dataset:
        """The bytes of a block's records, one after the other, as one string."""
        # Not tf.unstack: tf.data's optimizer (TensorFlow 2.16) crashes on a `take` whose count is
        # not the first output of its op.
        file, offset, num_bytes, num_records = block[0], block[1], block[2], block[3]
        # Unlike tf.data.TFRecordDataset, the op can begin in the middle of a file. It checks the
        # records' checksums; the buffer is the block, so a block is one read. The second file,
        # never read, is for s3://: if all files lie there, the op reads 127 MiB at once.
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[tf.gather(tf.constant(self.files), file), os.devnull],
            compression_type="",
            buffer_size=num_bytes,
            byte_offsets=tf.stack([offset, 0]),
        )
        records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
        return records.take(num_records).batch(num_records).map(self._joined)

    def _joined(self, records: tf.Tensor) -> tf.Tensor:
        if self.compression == "zlib":
            records = tf.io.decode_compressed(records, "ZLIB")
        return tf.strings.reduce_join(records)

    def _checked(self, window: dict[str, Any], parts: tf.Tensor) -> tf.Tensor:
        """The int32 words of all records, each checked against the index.

        Every block gets the room of the longest: joining them would copy each word twice more.
        """
        room = tf.maximum(tf.reduce_max(window["block_words"]), 1)
        words = tf.io.decode_raw(parts, tf.int32, little_endian=True, fixed_length=4 * room)
        words = tf.reshape(words, [-1])
        starts, headers = window["starts"], window["headers"]
        where = starts[:, tf.newaxis] + tf.range(HEADER_WORDS)
        found = tf.gather(words, tf.minimum(where, tf.size(words) - 1))
        differs = tf.reduce_any(found != headers, axis=1)
        expected_bytes = 4 * tf.concat([window["block_words"], [1]], 0)
        # Cut as well, since a block that is cut off entirely gives no part.
        as_long = tf.strings.length(parts) == expected_bytes[: tf.size(parts)]
        first = tf.argmax(tf.concat([differs, [True]], 0))
        place = tf.concat([window["place"], [[-1, -1]]], 0)[first]
        names = tf.concat([tf.constant(self.files), ["the end of a block"]], 0)
        with tf.control_dependencies(
            [
                tf.debugging.Assert(
                    tf.logical_not(tf.reduce_any(differs))
                    & tf.reduce_all(as_long)
                    & (tf.size(parts) == tf.size(expected_bytes)),
                    [
                        "a record is not what the index says (run `gmeta-tf inspect --verify`); "
                        "file and offset of the first:",
                        names[place[0]],
                        place[1],
                    ],
                )
            ]
        ):
            return tf.identity(words)

    def _pick(self, window: dict[str, Any], parts: tf.Tensor) -> dict[str, Any]:
        """The rows of each sample, by bucket: `words` is int32 `[M, rows, C]`."""
        words = self._checked(window, parts)
        # Missing rows begin at the last block, the word -1, and all their words are that one.
        nothing = tf.size(words) // tf.size(parts) * (tf.size(parts) - 1)
        picked = []
        for part in window["samples"]:
            planes = part["stride"][:, :, tf.newaxis] * tf.range(self.planes)
            where = part["first_words"][:, :, tf.newaxis] + planes
            picked.append(
                {name: part[name] for name in ("task", "num_support", "num_query")}
                | {"words": tf.gather(words, tf.minimum(where, nothing))}
            )
        return {"samples": tuple(picked), "steps": window["steps"]}

    def _nothing_waits(self) -> tuple[dict[str, tf.Tensor], ...]:
        return tuple(
            {
                "task": tf.zeros([0], tf.int64),
                "num_support": tf.zeros([0], tf.int32),
                "num_query": tf.zeros([0], tf.int32),
                "words": tf.zeros([0, rows, self.planes], tf.int32),
            }
            for rows in self.shape.capacities
        )

    def _full_steps(self, waiting: Any, window: dict[str, Any]) -> tuple[Any, Any]:
        """Puts the waiting samples before the window's, and keeps those that fill no step."""
        left, full = [], []
        for before, part, tasks in zip(
            waiting, window["samples"], self.shape.tasks_of_buckets, strict=True
        ):
            joined = {name: tf.concat([before[name], part[name]], 0) for name in part}
            steps = tf.shape(joined["task"])[0] // tasks
            left.append({name: value[steps * tasks :] for name, value in joined.items()})
            full.append(
                {
                    name: tf.reshape(
                        value[: steps * tasks],
                        tf.concat([[steps, tasks], tf.shape(value)[1:]], 0),
                    )
                    for name, value in joined.items()
                }
            )
        return tuple(left), {"samples": tuple(full), "steps": window["steps"]}

    def _in_order(self, window: dict[str, Any]) -> tf.data.Dataset:
        by_bucket = [tf.data.Dataset.from_tensor_slices(part) for part in window["samples"]]
        if len(by_bucket) == 1:
            return by_bucket[0]
        return tf.data.Dataset.choose_from_datasets(
            by_bucket,
            tf.data.Dataset.from_tensor_slices(window["steps"]),
            stop_on_empty_dataset=False,
        )


class _Described:
    """Windows one at a time, by position: an epoch and a window's number in it.

    It remembers where each reader is; any other position is found by going through the windows
    before it.
    """

    def __init__(
        self,
        plan_of: Callable[[int], EpochPlan],
        describe: Callable[[EpochPlan], Iterator[list[np.ndarray]]],
    ) -> None:
        self._plan_of = plan_of
        self._describe = describe
        self._going_on: dict[tuple[int, int], Iterator[list[np.ndarray]]] = {}

    def next(self, position: np.ndarray) -> list[np.ndarray]:
        """The position after this one, and the window here; a new epoch follows the last window."""
        epoch, number = (int(one) for one in position)
        windows = self._going_on.pop((epoch, number), None)
        if windows is None:
            windows = self._describe(self._plan_of(epoch))
            windows = itertools.islice(windows, number, None)
        window = next(windows, None)
        if window is None:
            return self.next(np.array([epoch + 1, 0]))
        self._going_on[epoch, number + 1] = windows
        while len(self._going_on) > _MOST_READERS:
            del self._going_on[next(iter(self._going_on))]
        return [np.array([epoch, number + 1]), *window]
