"""The words that options take: each list stands once, and what is chosen by them has them all."""

import re

import pytest

from gmeta_tf import allowed
from gmeta_tf.embedding import row_optimizers
from gmeta_tf.embedding.dynamic.rules import DynamicTable
from gmeta_tf.meta import losses
from gmeta_tf.meta_io.preparing import prepare
from gmeta_tf.meta_io.preparing.split import Split
from gmeta_tf.planner import traffic


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (row_optimizers._BY_NAME, allowed.ROW_OPTIMIZERS),
        (losses._BY_NAME, tuple(dict.fromkeys(allowed.LOSSES.values()))),
        (prepare._ENGINE_OF, allowed.ENGINES),
        (traffic.WIRE_BYTES, allowed.WIRES),
    ],
    ids=["row optimizers", "losses", "engines", "bytes on the wire"],
)
def test_what_words_choose_has_a_thing_for_each(chosen, words):
    assert tuple(chosen) == words


def test_defaults_are_among_the_words():
    rules = DynamicTable()
    assert rules.when_full in allowed.WHEN_FULL
    assert rules.unknown_in_training in allowed.UNKNOWN_IN_TRAINING
    assert rules.unknown_otherwise in allowed.UNKNOWN_OTHERWISE
    assert Split().by in allowed.SPLITS_BY


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("Owner: name", "Owner: expected name to be one of a, b, got 'c'."),
        ("name", "expected name to be one of a, b, got 'c'."),
        ("Field 'x: y': kind", "Field 'x: y': expected kind to be one of a, b, got 'c'."),
    ],
)
def test_the_one_wording(option, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        allowed.check_word(option, "c", ("a", "b"))
    with pytest.raises(ValueError, match=f"^{re.escape(message)} Take a[.]$"):
        allowed.check_word(option, "c", ("a", "b"), "Take a.")
    allowed.check_word(option, "b", ("a", "b"))


def test_replicate_has_words_and_names():
    assert [allowed.replicate_of(word) for word in allowed.REPLICATE] == ["auto", True, False]
    assert allowed.replicate_of("genre,year") == {"genre", "year"}
