"""The scaling model's terms, by hand."""

import contextlib

import pytest

from benchmarks import scaling_model
from benchmarks.scaling_model import Cluster, Link, Step, centre_seconds, step_seconds

FAST, SLOW = Link(1e-6, 1e9), Link(1e-5, 1e8)


def test_terms_of_two_hosts_of_two_ranks():
    terms = step_seconds(Step(0.1, 4e6, 2e6), Cluster(2, 2, FAST, SLOW))
    assert terms == pytest.approx(
        {
            "compute": 0.1,
            "messages": 2 * (1e-6 + 2 * 1e-5) + 2 * 2 * 1e-5,
            "within": 1e6 / 1e9,
            "across": 2 * 2 * 1e6 / 1e8,
            "dense": 2 * 3 / 4 * 2e6 / 1e8,
        }
    )


def test_one_host_uses_its_own_links_alone():
    terms = step_seconds(Step(0.1, 4e6, 2e6), Cluster(1, 4, FAST, Link(1.0, 1.0)))
    assert terms["across"] == 0
    assert sum(terms.values()) < 0.11


def test_one_rank_only_computes():
    terms = step_seconds(Step(0.1, 4e6, 2e6), Cluster(1, 1, FAST, SLOW))
    assert sum(terms.values()) == 0.1


def test_a_centre_takes_the_gradients_of_all():
    assert centre_seconds(Step(0.0, 0.0, 1e6), Cluster(8, 8, FAST, FAST)) == pytest.approx(0.128)


@pytest.mark.parametrize(("rate", "expected"), [("200mbit", 25e6), ("1gbit", 125e6)])
def test_rates(rate, expected):
    assert scaling_model.bytes_per_second(rate) == expected


def test_a_rate_of_no_unit():
    with pytest.raises(ValueError, match="such as 200mbit or 1gbit, got 'fast'"):
        scaling_model.bytes_per_second("fast")


def test_the_check_predicts_from_no_limit_and_the_bytes_of_two(monkeypatch):
    asked = []

    def launched(module, size, per_host, arguments):
        asked.append((size, per_host, rates[-1]))
        slow = {"none": 0.0, "8mbit": 1.0}[rates[-1]]
        sent = 1e6 if size == 2 else 1.5e6
        return {"seconds": 0.1 + slow * sent / 1e6, "sent_bytes": sent}

    rates = []
    monkeypatch.setattr(scaling_model, "launched", launched)
    monkeypatch.setattr(scaling_model, "set_rate", rates.append)
    monkeypatch.setattr(scaling_model, "made_records", lambda folder, tasks: "records")
    monkeypatch.setattr(scaling_model, "simulated_hosts", lambda *_: contextlib.nullcontext())
    found = scaling_model._checked([2, 4], ["8mbit"], 5)
    assert asked == [(2, 1, "none"), (2, 1, "8mbit"), (4, 1, "none"), (4, 1, "8mbit")]
    assert found["ratio"] == {"2_hosts_8mbit": 1.0, "4_hosts_8mbit": 1.0}
