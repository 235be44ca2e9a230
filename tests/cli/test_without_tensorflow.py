"""What looks at data alone does not wait for TensorFlow; and its records stay what they were."""

from __future__ import annotations

import hashlib
import subprocess
import sys

SCHEMA = """
task: user
label: click
time: time
fields:
  - {name: item}
  - {name: shop}
  - {name: tags, kind: multi, max_values: 3}
  - {name: price, kind: dense}
tables:
  - {name: item}
  - {name: shop, num_rows: 50, keys: hash}
  - {name: tags}
"""
# Of the record files and indexes that TensorFlow's writer made of these rows.
DIGESTS = {
    "none": "646f4f3abaf39802712555905e5ec25b0c40ed812618781e210b85561893573b",
    "zlib": "7c8ced08e425154348923070abf74723ad646b5e1c3031845403267fc06d1e68",
}


def test_no_command_on_data_imports_tensorflow(tmp_path):
    with (tmp_path / "rows.csv").open("w") as file:
        print("user,item,shop,tags,price,time,click", file=file)
        for row in range(600):
            tags = "|".join(f"t{row % count}" for count in (2, 3, 5))
            cells = f"u{row % 23},i{row * 7 % 41},s{row % 9},{tags},{row / 8},{row}"
            print(f"{cells},{row * row % 3 % 2}", file=file)
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    data = "'--input', 'rows.csv', '--schema', 'schema.yaml'"
    split = "'--test-fraction', '0.2', '--valid-fraction', '0.2', '--episode-rows', '16'"
    code = (
        "import sys\n"
        "from gmeta_tf.cli.main import main\n"
        "main(['schema', 'init', 'rows.csv', '--output', 'drafted.yaml'])\n"
        f"main(['check', {data}])\n"
        "for compression in ('none', 'zlib'):\n"
        f"    main(['prepare', {data}, {split}, '--num-files', '2', '--output', compression,\n"
        "          '--compression', compression])\n"
        "main(['inspect', 'zlib', '--verify', '--episodes', '1'])\n"
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"
    assert {name: digest_of_records(tmp_path / name) for name in DIGESTS} == DIGESTS


def digest_of_records(folder) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".tfrecord", ".npy"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
