"""Records out of bytes: those of TensorFlow's reader, and its errors."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest
import tensorflow as tf

from gmeta_tf.meta_io.records.frames import frame, frame_content, frame_contents

RECORDS = [b"", b"a", bytes(range(256)) * 40, b"last"]
PLACES = [0, 16, 33, 33 + 16 + 10240]  # where each record's frame begins


@pytest.fixture
def block(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "r")) as writer:
        for record in RECORDS:
            writer.write(record)
    return (tmp_path / "r").read_bytes()


def test_records_that_tensorflow_wrote(block):
    assert frame_contents(block, 7) == RECORDS
    assert frame_contents(block[PLACES[2] :], 7) == RECORDS[2:]
    assert frame_contents(b"", 7) == []


@pytest.mark.parametrize(
    ("changed", "record"),
    [(PLACES[1], 1), (PLACES[1] + 8, 1), (PLACES[2] + 12, 2), (PLACES[3] + 19, 3)],
    ids=["length", "checksum of length", "content", "checksum of content"],
)
def test_damage_is_named_as_tensorflow_names_it(block, tmp_path, changed, record):
    damaged = bytearray(block)
    damaged[changed] ^= 4
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(tf.errors.DataLossError, match="corrupted record at ") as expected:
        list(tf.data.TFRecordDataset(str(tmp_path / "damaged")))
    message = f"corrupted record at {PLACES[record]}"
    # TensorFlow names where the content begins, if it is that which is damaged.
    assert message in str(expected.value) or f"at {PLACES[record] + 12}" in str(expected.value)
    with pytest.raises(ValueError, match=f"^{message}$"):
        frame_contents(bytes(damaged), 0)
    with pytest.raises(ValueError, match=f"^corrupted record at {100 + PLACES[record]}$"):
        frame_contents(bytes(damaged), 100)


@hypothesis.given(st.lists(st.binary(max_size=300), max_size=4))
@hypothesis.settings(deadline=None, max_examples=40)
def test_frames_are_those_of_tensorflow(tmp_path_factory, records):
    path = tmp_path_factory.getbasetemp() / "by-tensorflow"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    assert b"".join(map(frame, records)) == path.read_bytes()
    assert frame_contents(path.read_bytes(), 0) == records


def test_one_frame(block):
    assert frame_content(block[PLACES[1] : PLACES[2]], 16) == b"a"
    with pytest.raises(ValueError, match="truncated record at 16"):
        frame_content(b"", 16)
    with pytest.raises(ValueError, match="corrupted record at 16"):
        frame_content(block[PLACES[1] :], 16)


@pytest.mark.parametrize("length", [5, 12, 20, PLACES[3] + 19])
def test_a_block_that_ends_within_a_record(block, length):
    place = max(place for place in PLACES if place < length)
    with pytest.raises(ValueError, match=f"^truncated record at {place + 3}$"):
        frame_contents(block[:length], 3)
