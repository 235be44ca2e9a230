"""The exchange by host on few ranks: as one host, and as hosts of a rank each."""

import four_ranks
import pytest

import gmeta_tf as gm
from gmeta_tf.distributed.collectives import start
from gmeta_tf.embedding.host_exchange import HostExchange

WORLD = gm.World.detect()


@pytest.mark.parametrize("ranks_per_host", [1, WORLD.size])
def test_five_steps_are_those_of_the_flat_exchange(monkeypatch, ranks_per_host):
    monkeypatch.setenv("GMETA_RANKS_PER_HOST", str(ranks_per_host))
    by_host = four_ranks.made_model(WORLD, "by-host")
    assert by_host.embedding.exchange == "by-host"
    assert isinstance(by_host.embedding._exchange.others, HostExchange)
    assert by_host.embedding._exchange.others.layout.ranks_per_host == ranks_per_host
    assert by_host.look_ahead is not None
    flat = four_ranks.made_model(WORLD, "flat")
    assert flat.embedding.exchange == "flat"
    found, expected = four_ranks.trained(by_host, WORLD), four_ranks.trained(flat, WORLD)
    four_ranks.assert_near(found, expected)
    assert max(abs(one).max() for one in found) > 0.8  # beyond the initial rows


def test_looking_ahead_and_half_precision(monkeypatch):
    monkeypatch.setenv("GMETA_RANKS_PER_HOST", "1")
    ahead, plain = (
        four_ranks.made_model(WORLD, "by-host", wire="bfloat16", look_ahead=look_ahead)
        for look_ahead in (True, False)
    )
    assert plain.look_ahead is None
    found, expected = four_ranks.trained(ahead, WORLD), four_ranks.trained(plain, WORLD)
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))
    exact = four_ranks.trained(four_ranks.made_model(WORLD, "flat"), WORLD)
    four_ranks.assert_near(found, exact, tolerance=0.05)
    assert any((one != other).any() for one, other in zip(found, exact, strict=True))


def test_parts_that_horovod_does_not_know():
    """Horovod has been started by an earlier test, or begins here, without parts."""
    gm.ShardedEmbedding(four_ranks.made_batches.SCHEMA, 3, world=WORLD, exchange="flat")
    with pytest.raises(RuntimeError, match=r"know the ranks \[0, 5\] as a part of the run, but it"):
        start(WORLD, parts=[(0, 5)])
