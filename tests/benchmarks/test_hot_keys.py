"""What benchmarks/hot_keys.py takes out of the requests, against a count with sets."""

import json

import made_data
import numpy as np
import pytest

from benchmarks import hot_keys

STEPS = [
    (0, [[0, 1, 2, 5], [1, 2, 4]]),
    (1, [[1, 3], [1, 2, 7]]),
    (2, [[], [1, 2, 8]]),
]


def requests():
    for rank, steps in STEPS:
        for keys in steps:
            yield rank, np.array(keys, np.int64)


@pytest.mark.parametrize("hot", [set(), {1}, {1, 2}])
def test_the_hottest_are_left_out(hot):
    asked, num_keys = hot_keys.without_hottest(requests(), 3)
    expected = np.zeros([3, 3], int)
    for rank, keys in requests():
        for key in keys:
            expected[rank, key % 3] += key not in hot
    np.testing.assert_array_equal(asked(len(hot)), expected)
    assert num_keys == 8
    assert asked(0).sum() == 15
    assert asked(num_keys).sum() == 0


def test_it_ends_in_a_json_line(tmp_path, capsys):
    made_data.make_records(tmp_path, 40)
    sizes = ["--tasks", "4", "--support", "3", "--query", "5", "--width", "4", "--steps", "2"]
    hot_keys.main(
        ["--records", str(tmp_path), "--world-sizes", "2", "--hottest", "3", "1000", *sizes]
    )
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    (two,) = shown["worlds"]
    none, some, every = two["without"], *two["with"]
    assert none["exchange"] == none["sent"] > some["exchange"] > every["exchange"] == 0
    assert every["hottest"] < 24  # no more rows are copied than there are keys
    assert some["allreduce"] == 3 * 4 * 4
    assert two["best_sent"]["sent"] <= none["sent"]


def test_one_rank_is_refused(capsys):
    with pytest.raises(SystemExit):
        hot_keys.main(["--world-sizes", "1", "2"])
    assert "expected --world-sizes of at least 2" in capsys.readouterr().err
