"""What a rank raises reaches the others as what it was; tests/parallel runs it on several ranks."""

import pytest

from gmeta_tf.distributed import verdicts
from gmeta_tf.distributed.verdicts import on_chief, on_every_rank
from gmeta_tf.distributed.world import World

ONE = World()


class OfOurs(ValueError):
    """A class that other ranks are told of."""


def raises(error):
    def act():
        raise error

    return act


def test_alone_it_is_the_call_itself():
    assert on_every_rank(lambda: {"any": object}, ONE, name="x") == {"any": object}
    assert on_chief(lambda: [1, "a"], ONE, name="x") == [1, "a"]
    error = OfOurs("x")
    for call in (on_every_rank, on_chief):
        with pytest.raises(OfOurs) as raised:
            call(raises(error), ONE, name="x")
        assert raised.value is error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("x"), ValueError),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "x"), ValueError),
        (FileNotFoundError("x"), FileNotFoundError),
        (PermissionError("x"), OSError),
        (OfOurs("x"), OfOurs),
    ],
    ids=lambda value: type(value).__name__,
)
def test_another_rank_raises_the_same(error, kind, monkeypatch):
    """Rank 1 of 3 finds something, rank 2 something else: all raise what rank 1 found."""
    world, found = World(0, 3), {}

    def gathered(verdict, *_, **__):
        assert verdict is None
        return [None, verdicts._described(error, (OfOurs,)), ("ValueError", "y")]

    monkeypatch.setattr(verdicts, "gather_json", gathered)
    with pytest.raises(kind) as raised:
        on_every_rank(lambda: found.setdefault("acted", True), world, name="x", kinds=(OfOurs,))
    assert type(raised.value) is kind
    assert str(raised.value) == str(error)
    assert found == {"acted": True}


def test_other_errors_are_not_held_back():
    with pytest.raises(KeyError):
        on_every_rank(raises(KeyError("x")), ONE, name="x")


def test_rank_0_alone_acts(monkeypatch):
    monkeypatch.setattr(verdicts, "gather_json", lambda value, *_, **__: [value])
    assert on_chief(raises(KeyError("x")), World(1, 2), name="x") is None
