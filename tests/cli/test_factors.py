"""`--model factors` through the commands: its defaults, what it finds, what it refuses."""

import json

import numpy as np
import pytest
import yaml

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.options import PlanOptions, TrainOptions
from gmeta_tf.cli.runs import load_run
from gmeta_tf.embedding.row_shrinkage import ShrunkRows
from gmeta_tf.meta.decay import CosineDecay
from gmeta_tf.saving.serving.predictor import Predictor

SMALL = [
    *("--model", "factors", "--width", "6", "--heads", "2", "--tasks", "4", "--support", "3"),
    *("--query", "9", "--checkpoint-every", "1"),
]


def options_of(**given):
    return TrainOptions(records="r", run="o", **given)


def test_what_is_not_given_suits_the_model():
    factors, melu = options_of(model="factors"), options_of()
    assert (factors.width, factors.row_optimizer, factors.query) == (24, "lazy_adam", 190)
    assert (factors.heads, factors.decay, factors.row_shrinkage) == (4, "cosine", 60.0)
    assert (melu.width, melu.row_optimizer, melu.query) == (16, "lazy_adam", 40)
    assert (melu.heads, melu.decay, melu.row_shrinkage) == (1, "cosine", 0.0)
    assert (melu.learning_rate, melu.row_learning_rate, melu.epochs) == (0.002, 0.003, 20)
    assert options_of(model="factors", width=8, decay="none").width == 8
    assert PlanOptions(records="r", world_size=2, model="factors").width == 24


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"inner_steps": 2}, "--inner-steps 2 is an option of gradient steps"),
        ({"order": 1}, "--order 1 is an option of gradient steps"),
        ({"learn_rates": True}, "--learn-rates True is an option of gradient steps"),
        ({"clip_gradients": 1.0}, "--clip-gradients 1.0 is an option of gradient steps"),
        ({"inner_loss": "mse"}, "--inner-loss mse is an option of gradient steps"),
        ({"loss": "ratings"}, "expected --loss bce .clicks are predicted. or mse"),
        ({"hidden": [8]}, "expected no --hidden with --model factors"),
    ],
)
def test_options_without_effect_are_refused(given, match):
    with pytest.raises(ValueError, match=match):
        options_of(model="factors", **given)


def test_a_model_that_does_not_adapt_takes_no_options_of_it():
    with pytest.raises(ValueError, match=r"--inner-steps 2 is .*, and dlrm does not adapt"):
        options_of(model="dlrm", inner_steps=2)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("factors") / "run"
    cli.main(
        ["train", "--records", str(folder / "records"), "--run", str(run), *SMALL, "--epochs", "2"]
    )
    return run


@pytest.mark.slow
def test_a_run_is_evaluated_exported_and_goes_on(folder, run, capsys):
    cli.main(["evaluate", "--run", str(run), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert 0 < report["auc_adapted"] < 1
    options, _, model = load_run(str(run), gm.World())
    assert options.task_fields == []  # found, and in the checkpoint
    assert 1 < options.label_centre < 5
    assert model.inner.scale == options.label_scale != 1
    assert isinstance(model.row_optimizer, ShrunkRows)
    assert isinstance(model.row_optimizer.optimizer.learning_rate, CosineDecay)
    cli.main(["export", "--run", str(run)])
    rows = {"item": ["i1", "i2"], "price": [0.5, 0.25], "genre": ["Drama", ""], "liked": ["i2", ""]}
    query = {"user": ["a", "b"], **rows}
    support = {"user": ["a", "a"], **rows, "stars": [5.0, 1.0]}
    predictor = Predictor.load(run / "saved_model")
    nobody = {name: values[:0] for name, values in support.items()}
    alone, adapted = predictor(query, nobody), predictor(query, support)
    assert ((adapted > 0) & (adapted < 1)).all()
    assert abs(alone - adapted)[0] > 1e-4
    np.testing.assert_allclose(alone[1], adapted[1], atol=1e-6)  # b has no support
    (run / "query.csv").write_text("user,item,genre,price,liked\na,i1,Drama,0.5,i2\n")
    words = ["--query", str(run / "query.csv"), "--output", str(run / "predictions.csv")]
    cli.main(["predict", "--saved-model", str(run / "saved_model"), *words])
    names, row = (run / "predictions.csv").read_text().splitlines()
    assert names == "user,item,genre,price,liked,prediction,deviation"
    *_, prediction, deviation = row.split(",")
    assert float(prediction) == pytest.approx(alone[0], abs=1e-6)
    assert 0.1 < float(deviation) < 4  # stars
    words = ["train", "--records", str(folder / "records"), "--run", str(run), *SMALL, "--resume"]
    cli.main([*words, "--epochs", "3"])
    shown = capsys.readouterr().out
    assert "--epochs: 3, was 2" in shown
    assert "resuming after epoch 2" in shown
    assert yaml.safe_load((run / "config.yaml").read_text())["task_fields"] is None


def test_fields_of_the_task_must_be_the_schemas(folder, tmp_path, capsys):
    words = ["train", "--records", str(folder / "records"), "--run", str(tmp_path / "new"), *SMALL]
    with pytest.raises(SystemExit):
        cli.main([*words, "--task-fields", "nowhere"])
    assert "expected --task-fields to be among " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
