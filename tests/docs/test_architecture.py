"""docs/architecture.md names every file of the library once, and imports keep to its layers."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def files_of_page():
    """The files that the first columns name; one without a folder is in that of the one before."""
    section = PAGE[PAGE.index("### The ranks") : PAGE.index("## The data\n")]
    names = []
    for row in re.findall(r"^\| (`[^|]*`) \|", section, re.MULTILINE):
        for name in re.findall(r"`([^`]*\.py)`", row):
            folder = "" if "/" in name or not names else names[-1].rpartition("/")[0]
            is_top = (ROOT / "gmeta_tf" / name).is_file() and "/" not in name
            names.append(name if is_top or not folder else f"{folder}/{name}")
    return names


def test_every_file_is_named_once():
    package = ROOT / "gmeta_tf"
    there = [str(path.relative_to(package)) for path in package.rglob("*.py")]
    expected = sorted(name for name in there if pathlib.Path(name).name != "__init__.py")
    assert sorted(files_of_page()) == expected


def run_lint_imports(folder):
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_an_import_of_a_higher_layer_breaks_the_contract(tmp_path):
    """The gate runs `lint-imports` itself; this is that it can fail."""
    for path in (ROOT / "gmeta_tf").rglob("*.py"):
        copied = tmp_path / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(config, encoding="utf-8")
    schema = tmp_path / "gmeta_tf" / "schema" / "table.py"
    schema.write_text(schema.read_text(encoding="utf-8") + "\nimport gmeta_tf.meta.losses\n")
    broken = run_lint_imports(tmp_path)
    assert broken.returncode != 0
    assert "gmeta_tf.schema is not allowed to import gmeta_tf.meta" in broken.stdout


def test_architectures_stand_on_the_ways_to_adapt_alone():
    """import-linter does not see gmeta_tf.models, which an editable install maps from models/."""
    ways = ("gmeta_tf.meta.inner_loop", "gmeta_tf.meta.closed_form")
    allowed = (*ways, "gmeta_tf.models.")
    imported = [
        (path.name, name)
        for path in (ROOT / "models").glob("*.py")
        for name in re.findall(
            r"^ *(?:from|import) (gmeta_tf[\w.]*)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    ]
    assert ("melu.py", "gmeta_tf.meta.inner_loop") in imported
    assert [pair for pair in imported if not pair[1].startswith(allowed)] == []
