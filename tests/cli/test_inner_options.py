"""The options of the inner loop through the commands: what each makes, and that a run goes on."""

import json

import numpy as np
import pytest

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.built_model import build_model
from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.runs import load_run
from gmeta_tf.saving.serving.predictor import Predictor

SCHEMA = gm.Schema(
    (gm.Field("item"), gm.Field("genre"), gm.Field("price", "dense")), "stars", "user"
)
SCHEMA = SCHEMA.with_num_rows({"item": 5, "genre": 4})
ANNEALED = {"clip_gradients": 10.0, "multi_step_loss": 9, "second_order_after": 7}


def inner_of(**given):
    options = TrainOptions(records="r", run="o", hidden=[4], width=2, **given)
    return build_model(options, SCHEMA, gm.World()).inner


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"adapt_dense": ["last_layer"]}, {"adapt_dense": "last_layer", "adapt_embeddings": False}),
        ({"adapt_dense": ["score"]}, {"adapt_dense": ["score"], "adapt_embeddings": False}),
        ({"adapt_fields": ["item"]}, {"adapt_embeddings": ("item",)}),
        ({"learn_rates": True}, {"learn_rates": "variables", "adapt_embeddings": False}),
        (
            {"learn_rates": True, "rates_of": "parameters", "adapt_embeddings": True},
            {"learn_rates": "parameters"},
        ),
        (
            {"inner_steps": 3, **ANNEALED},
            {"num_steps": 3, "adapt_embeddings": False, **ANNEALED},
        ),
        (
            {"outer_gradient": "reptile", "order": 1, "adapt_embeddings": True},
            {"outer_gradient": "reptile", "order": 1},
        ),
    ],
    ids=str,
)  # fmt: skip
def test_flags_are_options_of_the_inner_loop(given, expected):
    expected = gm.InnerLoop(**{"num_steps": 1, "learning_rate": 0.5, **expected})
    assert inner_of(**given) == expected


@pytest.mark.slow
def test_a_run_is_evaluated_exported_and_goes_on(folder, small, tmp_path, capsys):
    """Rates of parameters, both annealings, and ratings inside where clicks are predicted."""
    run = tmp_path / "run"
    words = ["train", "--records", str(folder / "records"), "--run", str(run), *small]
    words += ["--inner-steps", "2", "--learn-rates", "--rates-of", "parameters"]
    words += ["--multi-step-loss", "9", "--second-order-after", "4", "--clip-gradients", "10"]
    words += ["--adapt-fields", "item", "--inner-loss", "ratings", "--adapt-dense", "last_layer"]
    cli.main([*words, "--epochs", "1"])
    cli.main(["evaluate", "--run", str(run), "--json"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < report["log_loss_adapted"] < 5
    options, records, model = load_run(str(run), gm.World())
    assert 1 < options.label_centre < 5
    assert model.adapter.inner_loss.takes_values
    assert not model.row_loss.takes_values
    assert model.adapter.adapted_paths == ["melu/score/kernel", "melu/score/bias"]
    cli.main(["export", "--run", str(run)])
    predictor = Predictor.load(run / "saved_model")
    rows = {"item": ["i1", "i2"], "price": [0.5, 0.25], "genre": ["Drama", ""], "liked": ["i2", ""]}
    query = {"user": ["a", "b"], **rows}
    support = {"user": ["a", "a"], **rows, "stars": [5.0, 1.0]}
    nobody = {name: values[:0] for name, values in support.items()}
    alone, adapted = predictor(query, nobody), predictor(query, support)
    assert abs(alone - adapted)[0] > 1e-4
    np.testing.assert_allclose(alone[1], adapted[1], atol=1e-6)  # b has no support
    cli.main([*words, "--epochs", "2", "--resume"])
    shown = capsys.readouterr().out
    assert "--epochs: 2, was 1" in shown
    steps = gm.TaskBatches(records, "train", tasks=4, support=3, query=5).steps_per_epoch
    assert int(load_run(str(run), gm.World()).model.optimizer.iterations) == 2 * steps


def test_ratings_inside_need_clicks():
    with pytest.raises(ValueError, match="schema with positive_from with --inner-loss ratings"):
        inner_of(inner_loss="ratings")
