"""What every learner that comes with the library is held to, eagerly and in one process.

Beside this, `tests/meta/test_meta_model.py` trains each at both orders and counts its traces,
`tests/saving/exports/test_export.py` serves each, and `tests/parallel/test_step_parity.py` trains
each on several ranks.
"""

import keras
import made_batches
import numpy as np
import pytest
from made_batches import SCHEMA, batch, made_tasks

import gmeta_tf as gm

WIDTH = 4
# float32 sums of some dozens of products of size 1, in another order.
FLOAT32 = {"rtol": 1e-4, "atol": 2e-6}

LEARNERS = {
    "melu": lambda: gm.models.MeLU((6, 4)),
    "maml_dlrm": lambda: gm.models.MamlDLRM(bottom=(4,), top=(6,)),
    "mmaml": lambda: gm.models.MMAML((6, 4)),
    "cbml": lambda: gm.models.CBML((6, 4)),
    "factors": lambda: gm.models.Factors([1], heads=2),
    "dlrm": lambda: gm.models.DLRM(bottom=(4,), top=(6,)),
    "heads of melu": lambda: gm.models.Heads([gm.models.MeLU((6, 4)) for _ in range(2)]),
    "heads of mmaml": lambda: gm.models.Heads([gm.models.MMAML((6, 4)) for _ in range(2)]),
}
OF_STEPS = [name for name in LEARNERS if name not in ("factors", "dlrm")]


def model_of(name, *, replicate=False, **inner_options):
    keras.utils.set_random_seed(5)
    embedding = gm.ShardedEmbedding(SCHEMA, WIDTH, scale=0.8, replicate=replicate, world=gm.World())
    learner = LEARNERS[name]()
    inner = gm.InnerLoop(0)
    if name == "factors":
        inner = learner.inner_loop()
    elif name != "dlrm":
        inner = learner.inner_loop(2, 0.2, **inner_options)
    encoder = learner.task_encoder(width=4) if hasattr(learner, "task_encoder") else None
    model = gm.MetaModel(learner, embedding, inner, task_encoder=encoder)
    model.compile(keras.optimizers.SGD(0.2), gm.Adagrad(0.1))
    return model


def numbers_of(model):
    """All dense weights and rows."""
    rows = {group: model.embedding.all_rows(group).numpy() for group in model.embedding.groups}
    return {**{v.path: v.numpy() for v in model.trainable_variables}, **rows}


def evaluated(model):
    seen = model.test_step(batch(made_tasks(4), 8))
    return {name: seen[name].numpy() for name in ("adapted", "unadapted", "loss")}


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **tolerance)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_step_moves_all_that_it_should_and_lowers_the_loss_of_its_tasks(name):
    model, tasks = model_of(name), batch(made_tasks(3), 8)
    before = numbers_of(model)
    first = model.test_step(tasks)["loss"].numpy()
    for _ in range(3):
        model.train_step(tasks)
    for path, value in numbers_of(model).items():
        assert np.abs(value - before[path]).max() > 1e-6, path
    assert model.test_step(tasks)["loss"] < first


@pytest.mark.parametrize("name", LEARNERS)
def test_adapting_is_seen_where_there_is_support_and_only_there(name):
    model = model_of(name)
    seen = model.test_step(batch(made_tasks(3), 8))
    change = np.abs(seen["adapted"] - seen["unadapted"])
    alone = seen["task"].numpy() == 301  # made_tasks' task 1 has no support row
    np.testing.assert_allclose(change[alone], 0, atol=1e-6)
    assert (change[~alone].max() > 1e-3) == (name != "dlrm")


@pytest.mark.parametrize("name", OF_STEPS)
def test_the_forms_of_fast_weights_agree(name):
    expected = evaluated(model_of(name, fast_weights="vectorized"))
    for form in ("low_rank", "stacked"):
        assert_same(evaluated(model_of(name, fast_weights=form)), expected, **FLOAT32)


@pytest.mark.parametrize("name", LEARNERS)
def test_replicated_tables_are_sharded_ones(name):
    models = [model_of(name, replicate=replicate) for replicate in (False, True)]
    for model in models:
        model.train_step(batch(made_tasks(3), 8))
    assert_same(numbers_of(models[1]), numbers_of(models[0]), **FLOAT32)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_checkpoint_is_the_model(name, tmp_path):
    model = model_of(name)
    model.train_step(batch(made_tasks(3), 8))
    gm.save_checkpoint(model, tmp_path / "saved")
    other = model_of(name)
    assert np.abs(evaluated(other)["adapted"] - evaluated(model)["adapted"]).max() > 1e-4
    gm.load_checkpoint(other, tmp_path / "saved")
    assert_same(evaluated(other), evaluated(model), rtol=0, atol=0)
    for one in (model, other):
        one.train_step(batch(made_tasks(6), 8))
    assert_same(numbers_of(other), numbers_of(model), rtol=0, atol=0)


@pytest.mark.parametrize("name", LEARNERS)
def test_padding_changes_nothing(name):
    found = [
        model_of(name).test_step(batch(made_tasks(3), slots, support=support, query=query))
        for slots, support, query in ((7, made_batches.SUPPORT, made_batches.QUERY), (9, 6, 8))
    ]
    for key in ("adapted", "unadapted", "loss"):
        np.testing.assert_allclose(found[1][key], found[0][key], err_msg=key, **FLOAT32)
