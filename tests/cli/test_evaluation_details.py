"""`gmeta-tf evaluate --draws --bootstrap --by --calibration` on a trained run."""

import dataclasses
import json
import types

import numpy as np
import pytest
from made_log import SCHEMA

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.built_model import build_model
from gmeta_tf.cli.evaluation_details import check_details, describe_details
from gmeta_tf.cli.options import EvaluateOptions, TrainOptions
from gmeta_tf.cli.run_batches import evaluation_batches
from gmeta_tf.cli.runs import load_run
from gmeta_tf.evaluation.calibration import calibration
from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary


def test_all_details_at_once(folder, capsys):
    run = str(folder / "run")
    flags = ["--draws", "2", "--seed", "3", "--bootstrap", "20", "--by", "item"]
    sizes = ["--support-sizes", "0", "1", "3", "--inner-steps-curve", "0", "1", "2"]
    cli.main(["evaluate", "--run", run, *flags, *sizes, "--calibration", "4"])
    shown = capsys.readouterr().out
    report = json.loads((folder / "run" / "evaluation-test.json").read_text())
    cli.main(["evaluate", "--run", run])  # as the other tests expect it

    options, records, model = load_run(run, gm.World())
    draws = []
    for seed in (3, 4):
        batches = evaluation_batches(records, "test", 3, seed, gm.World())
        draws.append(model.predict(batches, verbose=0))
    for side in ("adapted", "unadapted"):
        values = [metric("auc").value(d["task"], d["label"], d[side]) for d in draws]
        assert values[0] != values[1]
        assert report[f"auc_{side}"] == pytest.approx(np.mean(values))
        deviation = report["deviation_over_draws"][f"auc_{side}"]
        assert deviation == pytest.approx(np.std(values, ddof=1))
        low, high = report["intervals"][f"auc_{side}"]
        assert low < report[f"auc_{side}"] < high
        pooled = [np.concatenate([d[name] for d in draws]) for name in ("label", side)]
        expected = calibration(*pooled, 4)
        found = report["calibration"][side]
        assert found["expected_error"] == pytest.approx(expected.expected_error)
        assert found["rows"] == expected.rows.tolist()
    assert report["seeds"] == [3, 4]
    assert report["auc_baseline"] is not None

    names = set(read_vocabulary(records.path, "item").tolist())
    values = [one["value"] for one in report["segments"]]
    assert values[-1] is None
    assert set(values[:-1]) <= names | {"missing or unknown"}
    assert len(set(values)) == 11
    assert sum(one["rows"] for one in report["segments"]) == report["samples"]
    assert report["segments"][0]["rows"] >= report["segments"][1]["rows"] > 0
    assert [one["support"] for one in report["support_sizes"]] == [0, 1, 3]
    none, one, all_rows = report["support_sizes"]
    assert none["auc_adapted"] == none["auc_unadapted"] != one["auc_adapted"]
    assert all_rows["auc_adapted"] == pytest.approx(report["auc_adapted"])
    slow = [auc_after_one_row(model, records, seed, draws[seed - 3]) for seed in (3, 4)]
    assert one["auc_adapted"] == pytest.approx(np.mean(slow))

    assert [one["inner_steps"] for one in report["inner_steps_curve"]] == [0, 1, 2]
    none, as_trained, twice = report["inner_steps_curve"]
    assert none["auc_adapted"] == none["auc_unadapted"] == pytest.approx(report["auc_unadapted"])
    assert as_trained["auc_adapted"] == pytest.approx(report["auc_adapted"])
    slow = [log_loss_after_two_steps(options, folder, records, seed) for seed in (3, 4)]
    assert twice["log_loss_adapted"] == pytest.approx(np.mean(slow), rel=1e-5)
    assert twice["log_loss_adapted"] != pytest.approx(as_trained["log_loss_adapted"], rel=1e-5)

    assert "means of 2 draws of the support, seeds [3, 4]" in shown
    assert "95 % intervals from 20 samples of the tasks" in shown
    assert "all others" in shown
    assert "adapted: expected calibration error" in shown


def test_a_ranked_catalogue_is_shown_beside_the_popular():
    found = {"field": "item", "negatives": None, "tasks": 1234.0, "samples": 99.0}
    sides = {"adapted": 0.25, "unadapted": 0.125, "baseline": 0.5}
    found |= {f"recall@5_{side}": value for side, value in sides.items()}
    assert describe_details({"catalogue": found}) == [
        "",
        "item             adapted  unadapted   popular",
        "recall@5          0.2500     0.1250    0.5000",
        "1,234 tasks with positives, ranked among all others",
    ]
    last = describe_details({"catalogue": found | {"negatives": 7}})[-1]
    assert last == "1,234 tasks with positives, ranked among 7 drawn ones"


def log_loss_after_two_steps(options, folder, records, seed):
    """A model that was built to adapt in two steps, with the run's weights."""
    model = build_model(dataclasses.replace(options, inner_steps=2), records.schema, gm.World())
    gm.load_checkpoint(model, folder / "run" / "checkpoint" / "epoch-000002")
    batches = evaluation_batches(records, "test", 3, seed, gm.World())
    return model.evaluate(batches, return_dict=True, verbose=0)["log_loss_adapted"]


def auc_after_one_row(model, records, seed, draw):
    """With a support of 1 the draw is the same: the last query rows are those of a larger one."""
    batches = evaluation_batches(records, "test", 1, seed, gm.World())
    more = model.predict(batches, verbose=0)
    last = np.concatenate(
        [np.flatnonzero(more["task"] == t)[-(draw["task"] == t).sum() :] for t in set(draw["task"])]
    )
    assert sorted(more["label"][last]) == sorted(draw["label"])
    return metric("auc").value(*(more[name][last] for name in ("task", "label", "adapted")))


A_RUN = TrainOptions(records="r", run="r")


def a_model(loss):
    return types.SimpleNamespace(embedding=types.SimpleNamespace(schema=SCHEMA), row_loss=loss)


@pytest.mark.parametrize(
    ("options", "in_time_order", "message"),
    [
        ({"calibration": 5}, False, "predictions are probabilities with --calibration.*got a run"),
        ({"draws": 3}, True, "support that is drawn with --draws 3, got one in time order"),
        ({"by": "price"}, False, "--by to be a field with values, item, genre, liked, got 'price'"),
    ],
)
def test_what_does_not_suit_is_told_before_anything_is_evaluated(options, in_time_order, message):
    loss = types.SimpleNamespace(predicts_probabilities=False, name="mean_squared_error")
    with pytest.raises(ValueError, match=message):
        check_details(EvaluateOptions(run="r", **options), A_RUN, a_model(loss), in_time_order)
    fits = types.SimpleNamespace(predicts_probabilities=True, name="binary_crossentropy")
    fine = EvaluateOptions(run="r", calibration=5, draws=3, by="genre", inner_steps_curve=[0])
    check_details(fine, A_RUN, a_model(fits), False)


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ({"model": "factors"}, "got the model factors: factors adapts in closed form"),
        ({"model": "dlrm"}, "got the model dlrm: dlrm does not adapt"),
        ({"learn_rates": True}, "got the model melu: its rates were learned for each step"),
    ],
)
def test_a_run_without_inner_steps_to_choose(trained, message):
    fits = types.SimpleNamespace(predicts_probabilities=True, name="binary_crossentropy")
    run = TrainOptions(records="r", run="r", **trained)
    options = EvaluateOptions(run="r", inner_steps_curve=[0, 1])
    with pytest.raises(ValueError, match=message):
        check_details(options, run, a_model(fits), False)
    check_details(EvaluateOptions(run="r"), run, a_model(fits), False)
