"""The requests that warm a server up, as TensorFlow Serving reads them."""

import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.saving.exports.export_digests import check_export
from gmeta_tf.saving.exports.warm_up import WARM_UP, blank_inputs, warm_up_request

SCHEMA = gm.Schema(
    (gm.Field("item"), gm.Field("price", "dense")), "liked", "user", tables=(gm.Table("item", 3),)
)
VOCABULARIES = {"item": np.array(["a", "b"], object)}
# What tensorflow-serving-api 2.16.1 makes of the same request, and reads as it.
OF_THE_API = (
    "32450a430a091a077072656469637412170a016e121208031204120208022208010000002c01"
    "0000121d0a0a71756572795f6974656d120f080712081202080112020801420161"
)


def test_a_request_is_that_of_the_api():
    inputs = {
        "query_item": tf.constant([["a"]]),
        "n": tf.constant([1, 300], tf.int32),
    }
    assert warm_up_request("predict", inputs).hex() == OF_THE_API


def exported(path, schema=SCHEMA, **options):
    embedding = gm.ShardedEmbedding(schema, 4, scale=0.5, world=gm.World(), **options)
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(1, 0.4))
    model.compile("adam", "adagrad")
    vocabularies = VOCABULARIES if schema is SCHEMA else {}
    gm.export_saved_model(model, path, vocabularies, warm_up=True)
    return tf.saved_model.load(str(path)).signatures


def requests_of(path):
    return [one.numpy() for one in tf.data.TFRecordDataset(str(path / WARM_UP))]


def test_an_export_has_one_for_each_signature(tmp_path):
    signatures = exported(tmp_path / "model")
    expected = [
        warm_up_request(name, blank_inputs(signature)) for name, signature in signatures.items()
    ]
    assert sorted(requests_of(tmp_path / "model")) == sorted(expected)
    assert len(expected) > 4
    check_export(tmp_path / "model")
    (tmp_path / "model" / WARM_UP).write_bytes(b"")
    with pytest.raises(ValueError, match="tf_serving_warmup_requests"):
        check_export(tmp_path / "model")


def test_a_signature_that_refuses_blank_rows_has_none(tmp_path):
    """A server would not load the model: nothing is known, and unknown keys are an error."""
    schema = gm.Schema(
        (gm.Field("item"),), "liked", "user", tables=(gm.Table("item", keys="hash"),)
    )
    options = gm.DynamicTable(unknown_otherwise="error")
    signatures = exported(tmp_path / "model", schema, dynamic=options)
    examples = blank_inputs(signatures["predict_examples"])  # an empty example has no rows
    assert requests_of(tmp_path / "model") == [warm_up_request("predict_examples", examples)]
