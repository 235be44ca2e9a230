"""`gmeta-tf candidates` names the items that a new task should be asked about."""

import json

import pytest

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.cli.runs import load_run
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary


def test_it_names_values_of_the_vocabulary(folder, capsys):
    run = str(folder / "run")
    cli.main(["candidates", "--run", run, "--top", "4", "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    shown = json.loads(line)["candidates"]
    _, records, model = load_run(run, gm.World())
    batches = gm.TaskBatches(
        records, "train", tasks=4, support=3, query=5, every_row=True, shuffle=False
    )
    expected = gm.evidence_candidates(model, batches, "item", top=4)
    values = read_vocabulary(records.path, "item")
    assert [one["value"] for one in shown] == [values[one.key - 1] for one in expected]
    assert [one["rows"] for one in shown] == [one.num_rows for one in expected]
    cli.main(["candidates", "--run", run, "--top", "2"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["item", "score", "gradient", "norm", "rows"]
    assert [one.split()[0] for one in lines] == [one["value"] for one in shown[:2]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--field", "nothing"], "expected a categorical field, item, liked, got 'nothing'"),
        (["--split", "nothing"], "expected --split to be one of train, test, valid, got 'nothing'"),
        (["--top", "0"], "expected --top of at least 1, got 0"),
    ],
)
def test_wrong_words(folder, capsys, words, message):
    with pytest.raises(SystemExit):
        cli.main(["candidates", "--run", str(folder / "run"), *words])
    assert message in capsys.readouterr().err
