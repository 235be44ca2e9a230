"""What the learners compute, and what they refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta.fast_weights import TaskLearner
from gmeta_tf.models.dlrm import _pairwise_products


def test_dlrm_is_the_pairwise_products_of_its_vectors():
    keras.utils.set_random_seed(0)
    learner = gm.models.DLRM(bottom=(), top=())
    embedded = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    dense = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    output = learner({"embedded": embedded, "dense": dense}).numpy()
    kernel, bias = (np.asarray(variable) for variable in learner.bottom[0].variables)
    first = np.maximum(dense @ kernel + bias, 0)
    vectors = np.concatenate([first[:, np.newaxis], embedded], axis=1)
    products = [[row[i] @ row[j] for i in range(4) for j in range(i + 1, 4)] for row in vectors]
    kernel, bias = (np.asarray(variable) for variable in learner.score.variables)
    expected = np.concatenate([first, products], axis=1) @ kernel + bias
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def plain_products(vectors):
    """The same by TensorFlow's own gradients, one pair at a time."""
    count = vectors.shape[1]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    return tf.stack([tf.reduce_sum(vectors[:, i] * vectors[:, j], -1) for i, j in pairs], axis=1)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_gradients_of_pairwise_products(count):
    """First, second and third order, each with weights of its own."""
    rng = np.random.default_rng(count)
    vectors = tf.constant(rng.normal(size=[5, count, 4]))
    of_products = tf.constant(rng.normal(size=[5, count * (count - 1) // 2]))
    of_first, of_second = (tf.constant(rng.normal(size=[5, count, 4])) for _ in range(2))

    def gradients(products):
        with tf.GradientTape() as third:
            third.watch([vectors, of_products])
            with tf.GradientTape() as second:
                second.watch([vectors, of_products])
                with tf.GradientTape() as first:
                    first.watch(vectors)
                    # Squared, so that the second derivative is one of the vectors too.
                    loss = tf.reduce_sum(of_products * tf.square(products(vectors)))
                one = first.gradient(loss, vectors)
                loss = tf.reduce_sum(of_first * tf.square(one))
            two = second.gradient(loss, [vectors, of_products])
            loss = tf.reduce_sum(of_second * two[0])
        return [one, *two, *third.gradient(loss, [vectors, of_products])]

    for found, expected in zip(gradients(_pairwise_products), gradients(plain_products)):
        scale = np.abs(expected).max()
        assert scale > 0.1
        np.testing.assert_allclose(found / scale, expected / scale, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["auto", "vectorized"])
def test_dlrm_adapts_in_every_form(form):
    keras.utils.set_random_seed(0)
    learner = gm.models.DLRM(bottom=(4,), top=(4,))
    rng = np.random.default_rng(0)
    inputs = {
        "embedded": tf.constant(rng.normal(size=[2, 3, 4, 2]), tf.float32),
        "dense": tf.constant(rng.normal(size=[2, 3, 5]), tf.float32),
    }
    learner({name: value[0] for name, value in inputs.items()})
    tasks = TaskLearner(learner, "all", {n: v[0] for n, v in inputs.items()}, form=form)
    assert (tasks.fallback_reason is None) == (form == "auto")
    outputs = tasks(tasks.start(2), inputs, training=False)
    expected = [learner({n: v[task] for n, v in inputs.items()})[:, 0] for task in range(2)]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_melu_is_an_mlp_over_all_fields():
    keras.utils.set_random_seed(0)
    learner = gm.models.MeLU((3,))
    embedded = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    dense = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    output = learner({"embedded": embedded, "dense": dense}).numpy()
    hidden = np.concatenate([embedded.reshape(4, 6), dense], axis=1)
    for layer in (*learner.decision, learner.score):
        kernel, bias = (np.asarray(variable) for variable in layer.variables)
        hidden = hidden @ kernel + bias
        hidden = np.maximum(hidden, 0) if layer is not learner.score else hidden
    np.testing.assert_allclose(output, hidden, rtol=1e-5, atol=1e-6)


def test_melu_adapts_dense_layers_and_maml_everything():
    assert not gm.models.MeLU.inner_loop().adapt_embeddings
    assert gm.models.MamlDLRM.inner_loop().adapt_embeddings


def test_melu_needs_a_decision_layer():
    with pytest.raises(ValueError, match="at least one decision layer"):
        gm.models.MeLU(())


def test_dlrm_needs_one_width():
    rows = {"embedded": np.zeros([2, 3, 4]), "embedded_8": np.zeros([2, 1, 8])}
    with pytest.raises(ValueError, match="embeddings of one width"):
        gm.models.DLRM()(rows)


def test_factors_are_biases_and_products():
    rng = np.random.default_rng(0)
    learner = gm.models.Factors([1], heads=2, bias_scale=2.0)
    embedded = rng.normal(size=(4, 3, 6)).astype(np.float32)
    learner({"embedded": embedded})
    weights = {v.path.split("/")[-1]: v for v in learner.weights}
    for variable in weights.values():
        variable.assign(rng.normal(size=variable.shape))
    output = learner({"embedded": embedded}).numpy().reshape(4, 2, 4)
    value = {name: np.asarray(variable) for name, variable in weights.items()}
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        row = embedded[:, 0, part] + embedded[:, 2, part]
        task = embedded[:, 1, part] + value["prior_mean"][head]
        before = (row[:, :2] * task[:, :2]).sum(axis=1) + 2 * (row[:, 2] + task[:, 2])
        np.testing.assert_allclose(output[:, head, 0], before, rtol=1e-4, atol=1e-5)
        factors = row[:, :2] + value["bias_with_factors"][head]
        np.testing.assert_allclose(output[:, head, 1:3], factors, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(output[:, head, 3], value["bias_deviation"][head, 0])


@pytest.mark.parametrize(
    ("options", "rows", "match"),
    [
        ({}, {"embedded": (2, 3, 4), "embedded_8": (2, 1, 8)}, "every table the same width"),
        ({"heads": 3}, {"embedded": (2, 3, 4)}, r"3 \(heads\) times at least 2 numbers.*got 4"),
        ({}, {"embedded": (2, 3, 1)}, "at least 2 numbers, a factor and a bias, got 1"),
        ({"task_fields": [3]}, {"embedded": (2, 3, 4)}, "task_fields from 0 to 2, got 3"),
    ],
)
def test_factors_refuse(options, rows, match):
    with pytest.raises(ValueError, match=match):
        gm.models.Factors(**options)({name: np.zeros(shape) for name, shape in rows.items()})
