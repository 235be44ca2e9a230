"""Files of safetensors written in blocks: the bytes of the library, the digest of the parts."""

import numpy as np
import pytest
from safetensors.numpy import save

from gmeta_tf.meta_io import digest
from gmeta_tf.saving import digested_file
from gmeta_tf.saving.checkpoints.tensor_files import LazyRows, TensorReader, save_tensors

ROWS = np.arange(700, dtype=np.float32).reshape(100, 7)
TENSORS = {
    "group/rows": ROWS,
    'é"/slot': -ROWS[:, :1],
    "keys": np.arange(9),
    "seen": np.arange(5, dtype=np.int32),
    "none": np.zeros([0, 4], np.float32),
    "scalar": np.array(3),
    "is": np.array([True]),
    "half": np.ones(3, np.float16),
}


@pytest.mark.parametrize("part_bytes", [97, 1000, 1 << 26])
def test_the_bytes_are_the_librarys(part_bytes, tmp_path, monkeypatch):
    for module in (digest, digested_file):
        monkeypatch.setattr(module, "PART_BYTES", part_bytes)
    monkeypatch.setattr(digested_file, "_BLOCK_BYTES", 64)
    lazy = LazyRows(ROWS.shape, lambda first, last: ROWS[first:last])
    path = tmp_path / "x.safetensors"
    told = save_tensors(TENSORS | {"group/rows": lazy}, path, shown=path)
    assert path.read_bytes() == save(TENSORS)
    assert told == digest.digest_of_parts(path)
    with TensorReader(path) as file:
        np.testing.assert_array_equal(file.rows("group/rows", 3, 50), ROWS[3:50])
        assert file.shapes == {name: value.shape for name, value in TENSORS.items()}


def test_a_type_without_a_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected c to have one of the types .* got complex64"):
        save_tensors({"c": np.zeros(2, np.complex64)}, tmp_path / "x", shown=tmp_path / "x")
    assert not list(tmp_path.iterdir())
