"""When an exchange is by host."""

import pytest

from gmeta_tf.distributed.world import World
from gmeta_tf.embedding import layout_choice
from gmeta_tf.embedding.layout_choice import agreed_layout, possible_layout

TWO_BY_TWO = World(2, 4, 0, 2, 2)


@pytest.mark.parametrize(
    ("exchange", "world", "wire", "ranks_per_host"),
    [
        ("auto", TWO_BY_TWO, "float32", 2),
        ("auto", TWO_BY_TWO, "bfloat16", 2),
        ("auto", TWO_BY_TWO, "float16", None),
        ("flat", TWO_BY_TWO, "float32", None),
        ("auto", World(2, 4, 2, 4, 1), "float32", None),  # one host
        ("by-host", World(2, 4, 2, 4, 1), "float32", 4),
        ("auto", World(2, 4, 0, 1, 4), "float32", None),  # a rank a host
        ("by-host", World(2, 4, 0, 1, 4), "float32", 1),
        ("by-host", World(), "float32", None),
        ("auto", World(3, 4, 0, 1, 2), "float32", None),  # uneven
    ],
    ids=str,
)
def test_choice(exchange, world, wire, ranks_per_host):
    layout = possible_layout(exchange, world, wire)
    assert (layout and layout.ranks_per_host) == ranks_per_host


def test_float16_by_host_is_refused():
    with pytest.raises(ValueError, match=r"expected wire='float32' or 'bfloat16', got 'float16'"):
        possible_layout("by-host", TWO_BY_TWO, "float16")


def test_uneven_hosts_are_refused():
    message = "as many ranks on every host, got 4 ranks of which 1 are on the host of rank 3. Use "
    with pytest.raises(ValueError, match=message):
        agreed_layout("by-host", None, World(3, 4, 0, 1, 2))


def test_ranks_that_are_not_host_by_host(monkeypatch):
    layout = possible_layout("by-host", TWO_BY_TWO, "float32")
    monkeypatch.setattr(layout_choice, "gather_json", lambda *_, name: [True, False, False, True])
    assert agreed_layout("auto", layout, TWO_BY_TWO) is None
    with pytest.raises(ValueError, match="so that rank 1 has local rank 1, and it has another"):
        agreed_layout("by-host", layout, TWO_BY_TWO)
    monkeypatch.setattr(layout_choice, "gather_json", lambda *_, name: [True] * 4)
    assert agreed_layout("by-host", layout, TWO_BY_TWO) is layout
