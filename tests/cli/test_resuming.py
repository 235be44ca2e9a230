"""What of a run's options may change when it goes on, and that the change takes effect."""

import dataclasses

import pytest
import yaml

from gmeta_tf.cli.options import TrainOptions
from gmeta_tf.cli.resuming import changed_options, check_resumed, describe_changes


@pytest.fixture
def resumed(tmp_path):
    """Makes the options to resume a run of others with, which has a checkpoint."""

    def make(earlier=(), **now):
        before = TrainOptions(records="r", run=str(tmp_path), **dict(earlier))
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(before)))
        checkpoint = tmp_path / "checkpoint" / "epoch-000001"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "manifest.json").touch()
        return dataclasses.replace(before, resume=True, **now)

    return make


def test_what_changed_is_said(resumed):
    options = resumed(learning_rate=0.25, epochs=30, support=3, hidden=[64, 64])
    check_resumed(options)
    assert describe_changes(changed_options(options)) == [
        "--support: 3, was 10",
        "--epochs: 30, was 20",
        "--learning-rate: 0.25, was 0.002",
    ]


def test_what_is_not_given_is_as_the_run_has_it(tmp_path):
    """Although today's defaults are others."""
    words = {"records": "r", "run": str(tmp_path)}
    config = {"model": "melu", "row_optimizer": "adagrad", "width": 5, "epochs": 7}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    resumed = TrainOptions(**words, resume=True, epochs=9)
    assert (resumed.row_optimizer, resumed.width, resumed.epochs) == ("adagrad", 5, 9)
    assert (resumed.decay, resumed.query) == ("none", 40)
    for other in ({}, {"resume": True, "model": "cbml"}):
        assert TrainOptions(**words, **other).row_optimizer == "lazy_adam"
    (tmp_path / "config.yaml").write_text("[")
    assert TrainOptions(**words, resume=True).row_optimizer == "lazy_adam"


def test_nothing_changed(resumed):
    options = resumed({"loss": "bce", "optimizer": "Adam"}, loss="BCE", optimizer="adam")
    assert changed_options(options) == {}
    (resumed_again,) = [dataclasses.replace(options, loss="mse", resume=False)]
    assert changed_options(resumed_again) == {}


def test_without_a_checkpoint_everything_may_change(resumed, tmp_path):
    options = resumed(width=3)
    (tmp_path / "checkpoint" / "epoch-000001" / "manifest.json").unlink()
    check_resumed(options)
    assert changed_options(options) == {}


@pytest.mark.parametrize(
    ("earlier", "now", "match"),
    [
        ({}, {"model": "maml_dlrm"}, "expected --model melu, got maml_dlrm"),
        ({}, {"hidden": [8]}, "expected --hidden 64 64, got 8"),
        ({}, {"width": 8, "optimizer": "sgd"}, "--width 16, got 8; expected --optimizer adam"),
        ({}, {"row_optimizer": "ftrl"}, "--row-optimizer lazy_adam, got ftrl"),
        ({}, {"embedding_scale": 0.5}, "--embedding-scale 0.1, got 0.5"),
        ({}, {"learn_rates": True}, "--learn-rates False, got True"),
        # The trained rates begin at the earlier value, and are in the checkpoint.
        ({"learn_rates": True}, {"inner_learning_rate": 0.1}, "--inner-learning-rate 0.5, got 0.1"),
        ({"learn_rates": True}, {"inner_steps": 2}, "--inner-steps 1, got 2"),
        (
            {"learn_rates": True},
            {"rates_of": "parameters"},
            "--rates-of variables, got parameters",
        ),
        ({"learn_rates": True}, {"adapt_dense": ["score"]}, "--adapt-dense None, got score"),
    ],
    ids=str,
)
def test_what_the_checkpoint_holds_cannot_change(resumed, earlier, now, match):
    with pytest.raises(ValueError, match=f"cannot go on with other options.*{match}"):
        check_resumed(resumed(earlier, **now))


def test_rates_that_are_not_trained_may_change(resumed):
    options = resumed(inner_learning_rate=0.1, inner_steps=2, row_learning_rate=0.3)
    check_resumed(options)
    assert len(changed_options(options)) == 3
