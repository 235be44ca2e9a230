"""What the benchmarks of quality compare is what they say."""

import json

import numpy as np
import pytest
from made_data import make_records

import gmeta_tf as gm
from benchmarks import closed_form, quality, search, time_to_quality
from benchmarks.fine_tuning import fine_tuned
from gmeta_tf.cli.built_model import build_model
from gmeta_tf.cli.model_options import names_of_model
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.run_batches import evaluation_batches


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A plain DLRM, as `gmeta-tf train --model dlrm` makes it, and its test split."""
    folder = str(tmp_path_factory.mktemp("dlrm"))
    make_records(folder, 12)
    records = gm.Records.open(folder)
    sizes = {"hidden": [4], "width": 4, "support": 3, "embedding_scale": 1.0}
    options = TrainOptions(records=folder, run="", model="dlrm", **sizes)
    model = build_model(options, records.schema, gm.World())
    return model, options, evaluation_batches(records, "train", 3, 0, gm.World())


def predicted(model, batches):
    return model.predict(batches, verbose=0)


def test_fine_tuning_starts_from_the_trained_weights_and_rows(trained):
    model, options, batches = trained
    plain = predicted(model, batches)
    np.testing.assert_allclose(plain["adapted"], plain["unadapted"], atol=1e-6)
    still = predicted(fine_tuned(model, options, 0, 0.5), batches)
    np.testing.assert_allclose(still["adapted"], plain["adapted"], atol=1e-6)
    tuned = predicted(fine_tuned(model, options, 2, 0.5), batches)
    np.testing.assert_allclose(tuned["unadapted"], plain["adapted"], atol=1e-6)
    assert np.abs(tuned["adapted"] - plain["adapted"]).max() > 1e-3


def test_the_closed_form_is_timed_beside_a_step(capsys):
    sizes = ["--tasks", "4", "--support", "3", "--query", "3", "--features", "2", "--rounds", "1"]
    closed_form.main(sizes)
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(shown["core_ms"]) == {"not adapted", "one gradient step", "closed form"}
    assert all(value > 0 for value in shown["core_ms"].values())
    assert shown["ratio"]["step"] > 0


def test_the_best_model_is_above_als_by_the_mean_of_the_pairs():
    als = [{"auc_adapted": 0.5, "auc_task": 0.25}, {"auc_adapted": 0.75, "auc_task": 0.25}]
    ours = [{"auc_adapted": 0.75, "auc_task": 0.5}, {"auc_adapted": 0.875, "auc_task": 0.75}]
    found = {"ALS, folded in": als, "a": als, "b": ours}
    means = {name: quality._means(values) for name, values in found.items()}
    assert quality._best(found, means, ["a", "b"]) == {
        "model": "b",
        "auc_over_als": 0.1875,
        "auc_over_als_standard_error": 0.0625,
        "auc_task_over_als": 0.375,
        "auc_task_over_als_standard_error": 0.125,
    }
    one = {name: values[:1] for name, values in found.items()}
    assert quality._best(one, means, ["b"]) == {
        "model": "b",
        "auc_over_als": 0.25,
        "auc_task_over_als": 0.25,
    }


def test_time_to_quality_is_that_of_the_first_epoch_that_is_as_good():
    epochs = {"seconds": [3.0, 4.0, 5.5, 6.0], "auc": [0.70, 0.7485, 0.752, 0.75]}
    assert time_to_quality._reached(epochs) == {
        "seconds": 4.0,
        "epoch": 2,
        "auc": 0.7485,
        "last_auc": 0.75,
        "whole_seconds": 6.0,
    }
    for settings in time_to_quality._settings().values():
        TrainOptions(records="r", run="", **settings)


def test_the_log_of_the_search_is_shown_best_first(tmp_path):
    lines = [
        {"model": "a", "setting": {"epochs": n}, "auc_over_offset": gain, "seconds": 1.0}
        for n, gain in ((1, 0.001), (2, 0.004), (3, -0.002))
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(one | {"auc_task_over_offset": 0.0}) + "\n" for one in lines))
    assert [line.split("epochs")[1] for line in search._shown(log)] == ['": 2}', '": 1}', '": 3}']
    for line in search._LOG.read_text().splitlines():
        tried = json.loads(line)
        setting = {k: v for k, v in tried["setting"].items() if k != "fine_tuned"}
        TrainOptions(records="r", run="", model=tried["model"], **setting)
        assert set(names_of_model(tried["model"])) <= set(setting)
    written = search._written_out("melu", {"epochs": 3})
    assert (written["epochs"], written["row_optimizer"], written["inner_steps"]) == (
        3,
        "lazy_adam",
        1,
    )


def test_the_first_melu_does_not_follow_todays_defaults():
    settings = time_to_quality._settings()["melu, first"]
    assert set(names_of_model("melu")) - {"heads"} <= set(settings)
    assert settings["row_optimizer"] == "adagrad"
