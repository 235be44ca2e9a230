"""The texts of validation errors, and how a rank raises them."""

import pytest
import tensorflow as tf

from gmeta_tf.embedding.dynamic.shard import NO_PROBLEM
from gmeta_tf.meta.validation import (
    LABEL_REMEDY,
    Finding,
    check,
    label_text,
    nonfinite_text,
    policy_text,
    range_text,
    rejection_text,
)


def said(text):
    return text.numpy().decode()


def int64(value):
    return tf.constant(value, tf.int64)


STATIC = "Prepare the data and build the tables from one schema."
RAW = "Prepare the data anew: raw keys are integers from 0."


@pytest.mark.parametrize(
    ("num_rows", "largest", "others", "expected"),
    [
        (7, 9, 0.0, f"the table item: expected keys from 0 to 6, got 9. {STATIC}"),
        (7, 7, 0.0, f"the table item: expected keys from 0 to 6, got 7. {STATIC}"),
        (7, 5, 0.0, f"the table item: expected keys from 0 to 6, got -5. {STATIC}"),
        (
            7,
            9,
            2.0,
            f"the table item: expected keys from 0 to 6, got 9, and such keys on 2 other rank(s). "
            f"{STATIC}",
        ),
        (
            7,
            -1,
            1.0,
            f"the table item: expected keys from 0 to 6, got such keys on 1 other rank(s). "
            f"{STATIC}",
        ),
        (None, 2**40, 0.0, f"the table item: expected keys from 0 on, got -{2**40}. {RAW}"),
        (None, 0, 0.0, f"the table item: expected keys from 0 on, got -{2**63}. {RAW}"),
    ],
)
def test_keys_outside_a_table(num_rows, largest, others, expected):
    assert said(range_text("item", num_rows, int64(largest), tf.constant(others))) == expected


@pytest.mark.parametrize(
    ("problem", "others", "got"),
    [
        ((2, 4, 0, -(2**63)), 0.0, "2 unknown keys such as 4"),
        ((0, -(2**63), 3, 8), 0.0, "3 keys beyond the capacity of 5 such as 8"),
        (
            (2, -4, 3, 8),
            1.0,
            "2 unknown keys such as -4, and 3 keys beyond the capacity of 5 such as 8, and such "
            "keys on 1 other rank(s)",
        ),
        (NO_PROBLEM, 3.0, "such keys on 3 other rank(s)"),
    ],
)
def test_keys_that_a_policy_objects_to(problem, others, got):
    assert said(policy_text("item", 5, int64(problem), tf.constant(others))) == (
        f"the table item: expected a row for every key, as its policy is error, got {got}. Check "
        "the data, load the table that has the keys, raise the capacity, or state another policy "
        "(DynamicTable)."
    )


def test_keys_beyond_the_memory():
    text = policy_text("item", None, int64((0, -(2**63), 3, 8)), tf.constant(0.0))
    assert "got 3 keys beyond the memory such as 8. " in said(text)


@pytest.mark.parametrize(
    ("is_finite", "nonfinite", "got"),
    [
        (False, [0.0, 0.0], "the dense weights or the loss"),
        (True, [0.0, 2.0], "the table genre on 2 rank(s)"),
        (
            False,
            [1.0, 2.0],
            "the table item on 1 rank(s), the table genre on 2 rank(s), the dense weights or the "
            "loss",
        ),
    ],
)
def test_nonfinite_gradients(is_finite, nonfinite, got):
    text = nonfinite_text(tf.constant(is_finite), tf.constant(nonfinite), ["item", "genre"])
    assert said(text) == (
        f"expected finite gradients, got NaN or Inf in {got}. Look for such numbers in the data, "
        "lower the learning rates, or compile with non_finite=skip."
    )


@pytest.mark.parametrize(
    ("outside", "ranks", "got"),
    [
        ([4.0, 5.0], 1.0, "4"),
        ([-0.25], 3.0, "-0.25, and such labels on 2 other rank(s)"),
        ([], 1.0, "such labels on 1 other rank(s)"),
    ],
)
def test_labels_out_of_range(outside, ranks, got):
    text = label_text(tf.constant(outside, tf.float32), tf.constant(ranks), (0.0, 1.0), "a loss")
    assert said(text) == f"a loss: expected labels from 0 to 1, got {got}. {LABEL_REMEDY}"


TEXTS = ("the table größe 'x' [0]: first.", 'the table "b": second.')


def checked(found, *, trains=False):
    findings = [
        Finding(is_found, lambda text=text: tf.constant(text))
        for is_found, text in zip(tf.unstack(found, num=2), TEXTS, strict=True)
    ]
    with tf.control_dependencies([check(findings, trains=trains)]):
        return tf.constant(3) + 0


@pytest.fixture(params=[False, True], ids=["eager", "graph"])
def run(request):
    return tf.function(checked, autograph=False) if request.param else checked


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([True, False], TEXTS[0]),
        ([False, True], TEXTS[1]),
        ([True, True], " ".join(TEXTS)),
    ],
)
def test_all_findings_are_one_error(run, found, text):
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        run(tf.constant(found))
    assert rejection_text(raised.value) == f"a step was rejected: {text}"
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        run(tf.constant(found), trains=True)
    assert rejection_text(raised.value) == f"a step was rejected: {text} Nothing was updated."


def test_a_good_step_goes_on(run):
    assert run(tf.constant([False, False])) == 3


def test_a_good_step_computes_no_text():
    """The texts are in a branch that it does not take."""
    graph = (
        tf.function(checked, autograph=False)
        .get_concrete_function(tf.TensorSpec([2], tf.bool))
        .graph.as_graph_def()
    )
    strings = {"StringJoin", "ReduceJoin", "StringStrip", "AsString"}
    assert not strings & {node.op for node in graph.node}
    in_branches = {node.op for function in graph.library.function for node in function.node_def}
    assert strings & in_branches


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a step was rejected: by somebody else"),
        tf.errors.InvalidArgumentError(None, None, "assertion failed: [a record is not]"),
    ],
)
def test_other_errors_have_no_such_text(error):
    assert rejection_text(error) is None
