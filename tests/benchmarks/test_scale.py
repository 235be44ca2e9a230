"""What `benchmarks.scale` computes from what it measured, and the keys that it makes."""

import numpy as np
import pytest

from benchmarks.scale import __main__ as scale
from benchmarks.scale import ranks
from benchmarks.scale.tables import _spread


@pytest.mark.parametrize("num_rows", [100_000, 1_000_003])
def test_a_dynamic_table_is_given_each_key(num_rows):
    at_once = 7_777
    steps = [
        _spread(np.arange(first, min(first + at_once, num_rows)), num_rows, at_once)
        for first in range(0, num_rows, at_once)
    ]
    assert {len(step) for step in steps} == {at_once}
    assert all(len(np.unique(step)) == at_once for step in steps)
    assert set(np.concatenate(steps).tolist()) == set(range(num_rows))


def test_what_ranks_cost_beyond_one_is_taken_within_a_turn(monkeypatch, tmp_path):
    asked = []

    def run_on_ranks(module, size, cores, arguments):
        asked.append((size, "--count-bytes" in arguments))
        turn = (len(asked) - 1) // 2
        used = {1: 5e-6, 2: 7e-6}[size] * (1 + turn)  # the machine is slower in the second turn
        traffic = {"traffic": {"sent": 8.0}} if size > 1 else {}
        return {"core_seconds": 1000 * used, "samples": 1000, "seconds": 0.5, **traffic}

    monkeypatch.setattr(ranks, "run_on_ranks", run_on_ranks)
    log = scale.MadeLog(1000, tmp_path)
    found = ranks.measure_ranks(log, [1, 2], tasks=[128], rounds=2, seconds=1.0, cache="cache")
    assert asked == [(1, False), (2, True), (1, False), (2, False)]
    of_two = found["ranks"]["128"]["2"]
    assert of_two["core_microseconds_per_sample"] == pytest.approx((7 + 14) / 2)
    assert of_two["samples_per_second"] == pytest.approx(2000)
    assert of_two["traffic"] == {"sent": 8.0}
    (more,) = found["exchange_core_microseconds_per_sample"].values()
    assert more == pytest.approx((2 + 4) / 2)


def test_figures_are_told_with_four_digits():
    assert scale._rounded({"a": 1.23456789, "b": {"c": 123456}}) == {"a": 1.235, "b": {"c": 123456}}


def test_quick_is_smaller_and_what_is_given_wins():
    quick, whole = scale._parse(["--quick", "--rounds", "9"]), scale._parse([])
    assert quick.rows == [100_000, 400_000]
    assert quick.rounds == 9
    assert whole.rows[-1] == 100_000_000
    assert whole.table_rows[-1] == 50_000_000
