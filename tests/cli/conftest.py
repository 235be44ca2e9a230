"""A log that was taken through all commands, for the tests of several files."""

import pytest
import yaml
from made_log import SCHEMA, write_log

from gmeta_tf.cli import main as cli

SMALL = [
    *("--width", "4", "--hidden", "6", "--tasks", "4", "--support", "3", "--query", "5"),
    *("--checkpoint-every", "1"),
]


@pytest.fixture(scope="session")
def small():
    """The flags of a small model."""
    return SMALL


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A log and its schema, prepared, trained for two epochs, evaluated and exported."""
    folder = tmp_path_factory.mktemp("cli")
    write_log(folder / "log.csv", num_tasks=40)
    (folder / "schema.yaml").write_text(yaml.safe_dump(SCHEMA.to_json()))
    files = ["--input", str(folder / "log.csv"), "--schema", str(folder / "schema.yaml")]
    records = str(folder / "records")
    cli.main(
        ["prepare", *files, "--output", records, "--valid-fraction", "0.1", "--num-files", "3"]
    )
    cli.main(["train", "--records", records, "--run", str(folder / "run"), "--epochs", "2", *SMALL])
    cli.main(["evaluate", "--run", str(folder / "run")])
    cli.main(["export", "--run", str(folder / "run")])
    return folder
