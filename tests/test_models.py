"""What the learners compute, and what they refuse."""

import keras
import numpy as np
import pytest

import gmeta_tf as gm


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
