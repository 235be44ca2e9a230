"""The benchmarks of serving and delivery run, and their last line is what they return."""

import json
import math

import pytest

from benchmarks import delivery, serving


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "ratios"),
    [
        (
            serving,
            {
                *("adapt_over_predict", "p99_over_p50"),
                *("adapt_over_predict_64", "p99_over_p50_64"),
            },
        ),
        (delivery, {"delta_over_full"}),
    ],
    ids=["serving", "delivery"],
)
def test_quick(benchmark, ratios, capsys):
    result = benchmark.main(["--quick"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert set(result["ratio"]) == ratios
    assert all(0 < ratio < math.inf for ratio in result["ratio"].values())
    if benchmark is delivery:
        assert result["bytes"]["delta"] > 0
        assert set(result["seconds"]) == {"retrain", "export", "warm_start", "delta", "apply"}
        assert set(result["auc"]) == {"full", "delta"}


def test_a_later_day_brings_users_and_items(tmp_path):
    logs = [delivery.write_day(tmp_path / f"{day}.csv", 3_000, seed=day, day=day) for day in (0, 1)]
    rows = [[line.split(",") for line in log.read_text().splitlines()[1:]] for log in logs]
    assert [len(one) for one in rows] == [3_000, 3_000]
    users, items = ([{row[place] for row in one} for one in rows] for place in (0, 1))
    assert not users[0] & users[1]
    assert items[0] & items[1]
    assert items[1] - items[0]
