"""Each option of each command with a wrong value: the error comes, and nothing has changed."""

import dataclasses
import pathlib
import shutil
import subprocess
import sys
import typing

import pytest
import yaml
from made_log import SCHEMA

from gmeta_tf.cli import first_checks, options
from gmeta_tf.cli import main as cli
from gmeta_tf.saving.checkpoints.checkpoint import latest_checkpoint


@pytest.fixture(scope="module")
def place(folder, tmp_path_factory):
    """What the commands made, and what a wrong option may point at."""
    place = tmp_path_factory.mktemp("wrong") / "place"
    shutil.copytree(folder, place)
    # A run knows its records by their path.
    config = place / "run" / "config.yaml"
    values = yaml.safe_load(config.read_text()) | {"records": str(place / "records")}
    config.write_text(yaml.safe_dump(values))
    shutil.copytree(place / "run", place / "unreadable")
    checkpoint = latest_checkpoint(place / "unreadable" / "checkpoint")
    (checkpoint / "dense.safetensors").write_bytes(b"cut off")
    shutil.copytree(place / "records", place / "damaged")
    for path in (place / "damaged" / "vocabulary").iterdir():
        path.unlink()
    shutil.copytree(place / "run", place / "run-of-damaged")
    values |= {"records": str(place / "damaged")}
    (place / "run-of-damaged" / "config.yaml").write_text(yaml.safe_dump(values))
    (place / "precious").mkdir()
    (place / "precious" / "mine.txt").write_text("mine")
    (place / "file").write_text("mine")
    (place / "no-label.csv").write_text("user,item,price,genre,liked\nu1,i1,0.5,Drama,i2\n")
    (place / "no-item.csv").write_text("user,price,genre,liked,stars\nu1,0.5,Drama,i2,4\n")
    schema = SCHEMA.to_json()
    (place / "typo.yaml").write_text(yaml.safe_dump(schema | {"lable": schema.pop("label")}))
    schema = SCHEMA.to_json() | {"label": "nowhere"}
    (place / "other-column.yaml").write_text(yaml.safe_dump(schema))
    (place / "timeless.yaml").write_text(yaml.safe_dump(SCHEMA.to_json() | {"time": None}))
    return place


def contents(folder):
    """Each file's bytes; None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def assert_it_changes_nothing(place, words, match, capsys, status=1):
    before = contents(place)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main([word.replace("@", f"{place}/") for word in words])
    shown = capsys.readouterr().err
    assert match in shown
    assert f": {words[0]}: " not in shown
    assert ended.value.code == status
    assert contents(place) == before


def options_without(kind, *, cases, any_value):
    """The options that neither cases nor a list of those that take any value name."""
    hints = typing.get_type_hints(kind)
    # A flag that is given or not has no wrong value.
    fields = {field.name for field in dataclasses.fields(kind) if hints[field.name] is not bool}
    return fields - {name for name, *_ in cases} - any_value


TRAIN = [
    ("records", ["--records", "@none"], "not a records folder"),
    ("records", ["--records", "@precious"], "not a records folder"),
    (
        "model",
        ["--model", "gpt"],
        "--model to be one of melu, maml_dlrm, mmaml, cbml, factors, dlrm, got 'gpt'",
    ),
    ("hidden", ["--hidden", "6", "0"], "--hidden of at least 1, got 0"),
    ("width", ["--width", "0"], "--width of at least 1, got 0"),
    ("row_optimizer", ["--row-optimizer", "adam"], "--row-optimizer to be one of sgd"),
    ("heads", ["--heads", "0"], "--heads of at least 1"),
    ("heads", ["--heads", "3"], "expected --width to be a multiple of --heads 3"),
    ("task_fields", ["--task-fields", "item"], "expected --model factors with --task-fields"),
    ("wire", ["--wire", "float8"], "--wire to be one of float32, bfloat16, float16, got 'float8'"),
    ("replicate", ["--replicate", "nowhere"], "got 'nowhere'"),
    ("exchange", ["--exchange", "near"], "--exchange to be one of auto, flat, by-host, got 'near'"),
    ("tasks", ["--tasks", "0"], "--tasks of at least 1"),
    ("tasks", ["--tasks", "1000"], "Lower tasks to"),
    ("support", ["--support", "0"], "--support of at least 1"),
    ("query", ["--query", "0"], "--query of at least 1"),
    ("buckets", ["--buckets", "0"], "--buckets of at least 1"),
    ("seed", ["--seed", "-1"], "--seed of at least 0"),
    ("run", ["--run", "@precious"], "is not a run folder"),
    ("run", ["--run", "@file"], "is not a folder"),
    ("inner_steps", ["--inner-steps", "-1"], "--inner-steps of at least 0"),
    ("inner_learning_rate", ["--inner-learning-rate", "-1"], "--inner-learning-rate to be"),
    (
        "embedding_inner_learning_rate",
        ["--embedding-inner-learning-rate", ".nan"],
        "--embedding-inner-learning-rate: expected a number such as 0.5",
    ),
    ("order", ["--order", "3"], "--order to be 1 or 2, got 3"),
    ("second_order_after", ["--second-order-after", "-1"], "--second-order-after of at least 0"),
    (
        "second_order_after",
        ["--second-order-after", "9", "--order", "1"],
        "expected order 2 with second_order_after",
    ),
    (
        "adapt_dense",
        ["--adapt-dense", "decision_0", "top"],
        "layers with weights (decision_0, score), each of one layer, got 'top'",
    ),
    (
        "adapt_fields",
        ["--adapt-fields", "price"],
        "adapt_embeddings to be among the key fields item, genre, liked, got 'price'",
    ),
    (
        "adapt_fields",
        ["--adapt-fields", "item", "--adapt-embeddings", "false"],
        "expected embeddings that adapt with --adapt-fields",
    ),
    ("rates_of", ["--rates-of", "layers"], "--rates-of to be one of variables, parameters"),
    ("rates_of", ["--rates-of", "parameters"], "expected --learn-rates with --rates-of parameters"),
    ("clip_gradients", ["--clip-gradients", "0"], "--clip-gradients to be a finite number above 0"),
    ("multi_step_loss", ["--multi-step-loss", "-1"], "--multi-step-loss of at least 0"),
    (
        "multi_step_loss",
        ["--multi-step-loss", "9"],
        "expected num_steps of at least 2 with multi_step_loss",
    ),
    (
        "outer_gradient",
        ["--outer-gradient", "fomaml"],
        "--outer-gradient to be one of query_loss, reptile, got 'fomaml'",
    ),
    (
        "outer_gradient",
        ["--outer-gradient", "reptile", "--adapt-embeddings", "true"],
        "expected order 1 with outer_gradient='reptile'",
    ),
    ("inner_loss", ["--inner-loss", "huber"], "--inner-loss to be one of binary_crossentropy"),
    ("overlap", ["--overlap", "fresh"], "--overlap to be one of adapted, stale, got 'fresh'"),
    ("epochs", ["--epochs", "0"], "--epochs of at least 1"),
    ("optimizer", ["--optimizer", "adamant"], "adamant"),
    ("learning_rate", ["--learning-rate", ".inf"], "--learning-rate: expected a number such as"),
    ("weight_decay", ["--weight-decay", "-0.1"], "--weight-decay to be a finite number"),
    ("row_learning_rate", ["--row-learning-rate", "-1"], "--row-learning-rate to be a finite"),
    ("decay", ["--decay", "step"], "--decay to be one of none, cosine, got 'step'"),
    ("row_shrinkage", ["--row-shrinkage", "-1"], "--row-shrinkage to be a finite number"),
    ("non_finite", ["--non-finite", "ignore"], "--non-finite to be one of raise, skip"),
    ("capacity", ["--capacity", "0"], "--capacity of at least 1"),
    ("when_full", ["--when-full", "stop"], "--when-full to be one of evict, default, error"),
    ("admit_after", ["--admit-after", "0"], "--admit-after of at least 1"),
    ("time_to_live", ["--time-to-live", "0"], "--time-to-live of at least 1"),
    ("embedding_scale", ["--embedding-scale", ".nan"], "--embedding-scale: expected a number such"),
    ("loss", ["--loss", "huber"], "--loss to be one of binary_crossentropy, bce, BCE"),
    ("label_centre", ["--label-centre", ".nan"], "--label-centre: expected a number such as"),
    ("label_centre", ["--label-centre", "3"], "--model factors or --loss ratings with --label-c"),
    ("label_scale", ["--label-scale", "0"], "--label-scale to be a finite number above 0"),
    ("metrics", ["--metrics", "auc", "precision"], "precision"),
    ("metrics", ["--metrics", "auc", "auc"], "each metric once"),
    ("patience", ["--patience", "0"], "--patience of at least 1"),
    ("patience", ["--patience", "2", "--no-validate"], "--patience compares epochs on the split"),
    ("choose_by", ["--choose-by", "f1"], "received 'f1'"),
    ("choose_by", ["--choose-by", "mae"], "--choose-by to be one of the metrics, auc, task_auc"),
    ("choose_by", ["--choose-by", "mae", "--metrics", "auc"], "one of the metrics, auc, got mae"),
    ("checkpoint_every", ["--checkpoint-every", "0"], "--checkpoint-every of at least 1"),
    (
        "checkpoint_every_steps",
        ["--checkpoint-every-steps", "0"],
        "--checkpoint-every-steps of at least 1",
    ),
    ("checkpoint", ["--checkpoint", "epoch-000009"], "--checkpoint "),
]


@pytest.mark.parametrize("mode", ["--overwrite", "--resume"])
@pytest.mark.parametrize(("name", "wrong", "match"), TRAIN, ids=lambda value: str(value))
def test_train(place, small, mode, name, wrong, match, capsys):
    words = ["train", "--records", "@records", "--run", "@run", *small, mode, *wrong]
    # What is no number is a wrong command line.
    status = 2 if "expected a number" in match else 1
    assert_it_changes_nothing(place, words, match, capsys, status)


def test_every_option_of_train_has_a_wrong_value():
    # Given or not, it has no wrong value: the parser takes yes, no and null alone.
    assert not options_without(options.TrainOptions, cases=TRAIN, any_value={"adapt_embeddings"})


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (["--width", "5"], "expected --width 4, got 5"),
        (
            ["--hidden", "7", "--model", "maml_dlrm"],
            "expected --model melu, got maml_dlrm; expected --hidden 6, got 7",
        ),
        (["--learn-rates"], "expected --learn-rates False, got True"),
        (["--optimizer", "sgd"], "expected --optimizer adam, got sgd"),
        (["--row-optimizer", "adagrad"], "expected --row-optimizer lazy_adam, got adagrad"),
        (["--embedding-scale", "0.2"], "expected --embedding-scale 0.1, got 0.2"),
        (["--run", "@unreadable"], "is damaged or incomplete"),
    ],
    ids=str,
)
def test_train_resumes_with_what_fits_the_checkpoint(place, small, wrong, match, capsys):
    words = ["train", "--records", "@records", "--run", "@run", *small, "--resume", *wrong]
    assert_it_changes_nothing(place, words, match, capsys)


def test_train_leaves_an_earlier_run_and_its_records(place, small, capsys):
    words = ["train", "--records", "@records", *small, "--run"]
    assert_it_changes_nothing(place, [*words, "@run"], "exists. Choose another --run", capsys)
    assert_it_changes_nothing(
        place, [*words, "@run", "--resume", "--overwrite"], "exclude each other", capsys
    )
    inside = ["train", "--records", "@run/records", "--run", "@run", "--overwrite"]
    assert_it_changes_nothing(place, inside, "which --overwrite would delete", capsys)


READING = [
    ("separator", ["--separator", "12345"], "separator to be a text of 1 to 4 bytes"),
    ("quoting", ["--quoting", "all"], "--quoting to be one of minimal, none, got 'all'"),
    ("columns", ["--columns", "a", "a"], "each column once"),
    ("escape", ["--escape", "/"], "expected escape to be one of"),
    ("encoding", ["--encoding", "ebcdic"], "--encoding to be one of utf-8, latin-1, utf-16"),
    ("format", ["--format", "xls"], "--format to be one of csv, tsv, got 'xls'"),
]


PREPARE = [
    ("output", ["--output", "@precious"], "(it has no schema.json)|not a records folder"),
    ("output", ["--output", "@file"], "nothing else (it has no schema.json)|not a records folder"),
    ("input", ["--input", "@none.csv"], "none.csv"),
    ("input", ["--input", "@no-label.csv"], "stars"),
    ("schema", ["--schema", "@none.yaml"], "no schema"),
    ("schema", ["--schema", "@typo.yaml"], "there is no 'lable' in it"),
    ("schema", ["--schema", "@other-column.yaml"], "nowhere"),
    ("movielens", ["--movielens", "@precious"], "either --movielens or --input, got both"),
    ("test_fraction", ["--test-fraction", "1"], "--test-fraction of at least 0 and below 1"),
    ("valid_fraction", ["--valid-fraction", "-1"], "--valid-fraction of at least 0 and below 1"),
    ("seed", ["--seed", "-1"], "--seed of at least 0"),
    ("split_by", ["--split-by", "user"], "--split-by to be one of task, time, both"),
    ("num_files", ["--num-files", "0"], "--num-files of at least 1"),
    ("episode_rows", ["--episode-rows", "1"], "--episode-rows of at least 2"),
    ("compression", ["--compression", "lzma"], "--compression to be one of none, zlib"),
    ("engine", ["--engine", "spork"], "--engine to be one of duckdb, spark"),
    ("on_bad_row", ["--on-bad-row", "ignore"], "--on-bad-row to be one of error, drop"),
    ("max_bad_share", ["--max-bad-share", "0"], "--max-bad-share above 0 and at most 1"),
    ("memory_limit", ["--memory-limit", "much"], "memory_limit to be a size"),
    ("spill_folder", ["--spill-folder", "@file"], "file"),
    ("layout", ["--layout", "netflix"], "expected --layout to be one of movielens, movielens-10m"),
    ("task", ["--task", "C1"], "--task C1 chooses the task of a --layout, got none"),
    *READING,
]


@pytest.mark.parametrize("mode", ["--overwrite", "--append"])
@pytest.mark.parametrize(("name", "wrong", "match"), PREPARE, ids=lambda value: str(value))
def test_prepare(place, mode, name, wrong, match, capsys):
    words = ["prepare", "--input", "@log.csv", "--schema", "@schema.yaml", "--output", "@records"]
    match = match.split("|")[mode == "--append"] if "|" in match else match
    # The log is the one that the records are of, which would be told first.
    words += ["--allow-same-input"] if mode == "--append" else []
    assert_it_changes_nothing(place, [*words, mode, *wrong], match, capsys)


def test_every_option_of_prepare_has_a_wrong_value():
    assert not options_without(options.PrepareOptions, cases=PREPARE, any_value={"null_words"})


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (["--overwrite", "--append"], "exclude each other"),
        ([], "exists. Pass overwrite=True"),
        (["--overwrite", "--split-by", "time", "--schema", "@timeless.yaml"], "needs a time"),
        (["--overwrite", "--test-fraction", "0.9", "--valid-fraction", "0.9"], "no task is left"),
        (["--append"], "log.csv, which was read for generation 0 of"),
        (["--append", "--episode-rows", "16"], "expected episode_rows to be 1024, got 16"),
        (["--append", "--schema", "@timeless.yaml"], "expected the schema to be"),
    ],
    ids=str,
)
def test_prepare_with_options_that_do_not_go_together(place, wrong, match, capsys):
    words = ["prepare", "--input", "@log.csv", "--schema", "@schema.yaml", "--output", "@records"]
    assert_it_changes_nothing(place, [*words, *wrong], match, capsys)


def test_prepare_checks_the_output_before_it_downloads(place, capsys, monkeypatch):
    from gmeta_tf.cli import prepare

    def download():
        raise AssertionError("it was downloaded")

    monkeypatch.setattr(prepare, "movielens_100k", download)
    words = ["prepare", "--movielens", "download", "--output"]
    assert_it_changes_nothing(place, [*words, "@records"], "exists. Pass overwrite=True", capsys)


EVALUATE = [
    ("run", ["--run", "@none"], "is not a run folder"),
    ("run", ["--run", "@precious"], "is not a run folder"),
    ("run", ["--run", "@unreadable"], "is damaged or incomplete"),
    ("records", ["--records", "@none"], "none is not a records folder"),
    ("split", ["--split", "dev"], "has no split 'dev'"),
    ("checkpoint", ["--checkpoint", "epoch-000009"], "--checkpoint to be one of epoch-000001"),
    ("support", ["--support", "0"], "--support of at least 1"),
    ("draws", ["--draws", "0"], "--draws of at least 1"),
    ("draws", ["--draws", "2", "--in-time-order", "true"], "support that is drawn with --draws 2"),
    ("bootstrap", ["--bootstrap", "-1"], "--bootstrap of at least 0"),
    ("by", ["--by", "price"], "--by to be a field with values, item, genre, liked, got 'price'"),
    ("calibration", ["--calibration", "0"], "--calibration of at least 1"),
    ("support_sizes", ["--support-sizes", "0", "-1"], "--support-sizes of at least 0, each once"),
    ("support_sizes", ["--support-sizes", "2", "2"], "--support-sizes of at least 0, each once"),
    ("inner_steps_curve", ["--inner-steps-curve", "-1"], "--inner-steps-curve of at least 0"),
    ("catalogue", ["--catalogue", "genre"], "--catalogue to be a field with one value a row, item"),
    ("catalogue", ["--catalogue", "item"], "'price' is neither, so nobody knows it"),
    ("top", ["--top", "0"], "--top of at least 1"),
    ("negatives", ["--negatives", "0"], "--negatives of at least 1"),
    ("negatives", ["--negatives", "5"], "--negatives 5 are values of a catalogue"),
    ("item", ["--item", "nowhere"], "--item to be a categorical field"),
    ("item", ["--item", "item", "price"], "(item, liked), got 'price'"),
    ("metrics", ["--metrics", "auroc"], "received 'auroc'"),
    ("train_split", ["--train-split", "dev"], "--train-split to be one of train, test, valid"),
]


@pytest.mark.parametrize(("name", "wrong", "match"), EVALUATE, ids=lambda value: str(value))
def test_evaluate(place, name, wrong, match, capsys, monkeypatch):
    """What is wrong is told before anything is evaluated, too."""
    monkeypatch.setattr("gmeta_tf.MetaModel.evaluate", None)
    assert_it_changes_nothing(place, ["evaluate", "--run", "@run", *wrong], match, capsys)


def test_every_option_of_evaluate_has_a_wrong_value():
    assert not options_without(
        options.EvaluateOptions, cases=EVALUATE, any_value={"seed", "in_time_order"}
    )


EXPORT = [
    ("run", ["--run", "@none"], "is not a run folder"),
    ("run", ["--run", "@unreadable"], "is damaged or incomplete"),
    ("run", ["--run", "@run-of-damaged"], "vocabulary"),
    ("checkpoint", ["--checkpoint", "../epoch-000001"], "--checkpoint to be one of epoch-000001"),
    ("records", ["--records", "@none"], "none is not a records folder"),
    ("output", ["--output", "@precious"], "is not an exported model"),
    ("output", ["--output", "@run"], "is not an exported model"),
    ("output", ["--output", "@file"], "is not an exported model"),
    ("since", ["--since", "epoch-000009"], "is not a checkpoint"),
    ("since", ["--since", "epoch-000001", "--output", "@precious"], "is not a delta"),
    ("versions", ["--versions", "@file"], "to be a folder of versions"),
    ("keep", ["--keep", "0", "--versions", "@none"], "--keep of at least 1, got 0"),
    ("look_up", ["--look-up", "item"], "joined on (there is none), got 'item'"),
]


@pytest.mark.parametrize(("name", "wrong", "match"), EXPORT, ids=lambda value: str(value))
def test_export(place, name, wrong, match, capsys):
    assert_it_changes_nothing(place, ["export", "--run", "@run", *wrong], match, capsys)


def test_every_option_of_export_has_a_wrong_value():
    assert not options_without(options.ExportOptions, cases=EXPORT, any_value={"warm_up"})


APPLY_DELTA = [
    ("saved_model", ["--saved-model", "@none"], "none is not a folder of versions"),
    ("delta", ["--delta", "@precious", "--output", "@none"], "is not a delta"),
    ("output", ["--output", "@precious"], "is not an exported model"),
    ("keep", ["--keep", "0"], "--keep of at least 1, got 0"),
]


@pytest.mark.parametrize(("name", "wrong", "match"), APPLY_DELTA, ids=lambda value: str(value))
def test_apply_delta(place, name, wrong, match, capsys):
    words = ["apply-delta", "--saved-model", "@run", "--delta", "@none", *wrong]
    assert_it_changes_nothing(place, words, match, capsys)


def test_every_option_of_apply_delta_has_a_wrong_value():
    assert not options_without(options.ApplyDeltaOptions, cases=APPLY_DELTA, any_value=set())


SERVE = [
    ("saved_model", ["--saved-model", "@none"], "holds no exported model"),
    ("saved_model", ["--saved-model", "@precious"], "holds no exported model"),
    ("port", ["--port", "65536"], "--port of at least 0 and below 65536, got 65536"),
    ("poll_seconds", ["--poll-seconds", "0"], "--poll-seconds to be a finite number above 0"),
]


@pytest.mark.parametrize(("name", "wrong", "match"), SERVE, ids=lambda value: str(value))
def test_serve(place, name, wrong, match, capsys):
    words = ["serve", "--saved-model", "@run", *wrong]
    assert_it_changes_nothing(place, words, match, capsys)


def test_every_option_of_serve_has_a_wrong_value():
    """The port is taken after the model is there: see test_rest_server.py for it and the host."""
    assert not options_without(options.ServeOptions, cases=SERVE, any_value={"name", "host"})


ITEM = ["--item", "item"]
PLAY = [
    ("saved_model", ["--saved-model", "@none"], "is not an exported model"),
    ("saved_model", ["--saved-model", "@precious"], "is not an exported model"),
    ("names", ["--names", "@none.csv"], "no file "),
    ("names", ["--names", "@no-item.csv", *ITEM], "the names have no column 'item' of the items"),
    ("names", ["--names", "@log.csv", "--movielens", "x"], "either --names or --movielens, got bo"),
    ("name_column", ["--name-column", "x"], "--name-column x is a column of a file: expected --na"),
    (
        "name_column",
        ["--names", "@log.csv", *ITEM, "--name-column", "x"],
        "--name-column to be a column of the names (user, ",
    ),
    (
        "item",
        [],
        "got item, liked; categorical fields are item, liked. Say which one it is:",
    ),
    ("item", ["--item", "price"], "--item to be a categorical field of the model (item, liked)"),
    ("key", ["--key", "x"], "--key x is a column of a file"),
    ("key", ["--names", "@log.csv", "--key", "x"], "expected --item FIELD with --key x"),
    ("key", ["--names", "@log.csv", *ITEM, "--key", "x"], "expected --key to be a column of"),
    ("movielens", ["--movielens", "@precious"], "is not a folder of MovieLens"),
    ("person", ITEM, "'price' is a number that may not be missing, and the names have no column"),
    ("person", [*ITEM, "--person", "price"], "expected --person to be FIELD=VALUE"),
    ("person", [*ITEM, "--person", "price=low"], "expected --person price=NUMBER"),
    ("person", [*ITEM, "--person", "price=1", "item=i1"], "does not describe items (price, genre"),
    ("ratings", ["--ratings", "1"], "--ratings of at least two finite labels, each once, got 1."),
    ("ratings", ["--ratings", "1", "1"], "each once, got 1 1."),
    ("most", ["--most", "0"], "--most of at least 1"),
    ("top", ["--top", "0"], "--top of at least 1"),
    ("port", ["--port", "65536"], "--port of at least 0 and below 65536, got 65536"),
    ("host", ["--host", "none.invalid"], "expected a free --port on --host none.invalid"),
    *READING,
]


@pytest.mark.parametrize(("name", "wrong", "match"), PLAY, ids=lambda value: str(value))
def test_play(place, name, wrong, match, capsys, monkeypatch):
    # As where Dash is installed, which is asked for before anything is loaded.
    monkeypatch.setattr(first_checks.importlib.util, "find_spec", lambda name: name)
    words = ["play", "--saved-model", "@run/saved_model", "--port", "0", *wrong]
    assert_it_changes_nothing(place, words, match, capsys)


def test_play_needs_dash(place, capsys, monkeypatch):
    monkeypatch.setattr(first_checks.importlib.util, "find_spec", lambda name: None)
    words = ["play", "--saved-model", "@run/saved_model"]
    assert_it_changes_nothing(place, words, "pip install 'gmeta_tf[play]'", capsys)


def test_every_option_of_play_has_a_wrong_value():
    assert not options_without(options.PlayOptions, cases=PLAY, any_value={"null_words"})


PREDICT = [
    ("saved_model", ["--saved-model", "@precious"], "is not an exported model"),
    ("query", ["--query", "@none.csv"], "none.csv"),
    ("query", ["--query", "@no-item.csv"], "no-item.csv: no column 'item'"),
    ("output", ["--output", "@precious"], "is a folder"),
    ("output", ["--output", "@none/p.csv"], "does not exist"),
    ("output", ["--output", "@log.csv"], "is read, too"),
    ("support", ["--support", "@none.csv"], "none.csv"),
    ("support", ["--support", "@no-label.csv"], "no-label.csv: no column 'stars'"),
    ("tasks", ["--tasks", "0"], "--tasks of at least 1"),
    ("tables", ["--tables", "films=a.csv"], "NAME=PATH, with a table of none, got 'films=a.csv'"),
    *READING,
]


@pytest.mark.parametrize(("name", "wrong", "match"), PREDICT, ids=lambda value: str(value))
def test_predict(place, name, wrong, match, capsys):
    words = ["predict", "--saved-model", "@run/saved_model", "--query", "@log.csv"]
    # "file" is there already, and stays as it was.
    words += ["--support", "@log.csv", "--output", "@file"]
    assert_it_changes_nothing(place, [*words, *wrong], match, capsys)


def test_every_option_of_predict_has_a_wrong_value():
    assert not options_without(options.PredictOptions, cases=PREDICT, any_value={"null_words"})


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["train", "--records", "@records", "--run", "@run"], "exists. Choose another --run"),
        (["train", "--records", "@records", "--run", "@new", "--wire", "float8"], "--wire"),
        (["train", "--records", "@r", "--run", "@new", "--metrics", "precision"], "precision"),
        (
            ["prepare", "--input", "@log.csv", "--schema", "@typo.yaml", "--output", "@new"],
            "there is no 'lable' in it",
        ),
        (
            ["prepare", "--input", "@log.csv", "--schema", "@schema.yaml", "--output", "@records"],
            "exists. Pass overwrite=True",
        ),
        (["evaluate", "--run", "@precious"], "is not a run folder"),
        (["export", "--run", "@precious"], "is not a run folder"),
        (
            ["predict", "--saved-model", "@m", "--query", "@log.csv", "--output", "@precious"],
            "is a folder",
        ),
    ],
    ids=str,
)
def test_some_errors_do_not_wait_for_tensorflow(place, words, match):
    code = (
        "import sys; from gmeta_tf.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as ended: status = ended.code\n"
        "sys.exit(3 if 'tensorflow' in sys.modules else status)"
    )
    words = [word.replace("@", f"{place}/") for word in words]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert match in done.stderr
    assert done.returncode == 1, done.stderr
