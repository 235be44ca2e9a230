"""launch/setup.sh: what it says when it cannot go on, and that it then leaves nothing half-done.

Each test runs a copy of the script in a repository of its own with an empty cache, and with as
little on PATH as the script needs, so that neither this repository's .venv nor the host's tools
play a part.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = (
    "setup.py",
    "pyproject.toml",
    "constraints.txt",
    "constraints-current.txt",
    "launch/build_horovod.sh",
    "launch/build-requirements.txt",
    "launch/setup.sh",
    "launch/sok-requirements.txt",
)
TOOLS = (
    "bash cat chmod cmp cp cut dirname env flock getconf grep head ln make mkdir mktemp mv rm sed "
    "sha256sum sh shasum tail timeout touch uname"
)


class Clone:
    """A repository with the files that setup.sh reads, a cache and a PATH of its own."""

    def __init__(self, folder: Path):
        self.root, self.cache, self.bin = (folder / name for name in ("clone", "cache", "bin"))
        for name in NEEDED:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        self.bin.mkdir()
        for tool in TOOLS.split():
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)

    def add_command(self, name: str, script: str) -> Path:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def add_python(self) -> None:
        self.add_command("python3", f'exec "{sys.executable}" "$@"')

    def setup(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [shutil.which("bash"), self.root / "launch/setup.sh", *options],
            env={
                "HOME": str(self.root.parent),
                "PATH": str(self.bin),
                "GMETA_CACHE": str(self.cache),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )

    def folder(self, name: str, **environment: str) -> Path:
        """One of the folders that `setup.sh --where` names."""
        for line in self.setup("--where", **environment).stdout.splitlines():
            if line.startswith(f"{name} "):
                return Path(line.removeprefix(f"{name} "))
        raise LookupError(name)

    def files(self) -> set[str]:
        """Everything in the repository and the cache but logs and locks."""
        return {
            str(path.relative_to(self.root.parent))
            for folder in (self.root, self.cache)
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".log" and path.name != "lock"
        }


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def assert_failed(run, what, remedy):
    """The run said on stderr what failed and what to do, and said nothing of success."""
    assert run.returncode == 1, (run.stdout, run.stderr)
    assert re.search(f"FAILED: .*{what}", run.stderr), run.stderr
    assert re.search(f"REMEDY: (.|\n)*{remedy}", run.stderr), run.stderr
    assert "is ready" not in run.stdout


@pytest.mark.parametrize("variable", [{}, {"PYTHON": "python3"}])
def test_unsuitable_python_is_named(clone, variable):
    clone.add_command("python3", "echo 3.14 /opt/python3.14 cpython-314")
    before = clone.files()
    run = clone.setup(**variable)
    assert_failed(run, "no suitable Python.*3.14 /opt/python3.14", "PYTHON=/path/to/python3.11")
    assert "launch/setup.sh --with-uv" in run.stderr
    assert clone.files() == before


def info_of(clone, **environment):
    """What `setup.sh --stack-info` says, by the first word of each line."""
    run = clone.setup("--stack-info", **environment)
    assert run.returncode == 0, run.stderr
    return dict(line.split(" ", 1) for line in run.stdout.splitlines())


@pytest.mark.parametrize(
    ("pythons", "asked", "stack", "python", "why"),
    [
        ({"python3": "3.11"}, "", "pinned", "python3", "the Python is 3.11"),
        ({"python3": "3.10"}, "", "pinned", "python3", "the Python is 3.10"),
        ({"python3": "3.13"}, "", "current", "python3", "the Python is 3.13"),
        ({"python3": "3.13", "python3.11": "3.11"}, "", "current", "python3", "3.13"),
        ({"python3": "3.14", "python3.13": "3.13"}, "", "current", "python3.13", "3.13"),
        ({"python3": "3.12", "python3.13": "3.13"}, "", "pinned", "python3", "3.12"),
        (
            {"python3": "3.13", "python3.12": "3.12"},
            "pinned",
            "pinned",
            "python3.12",
            "GMETA_STACK",
        ),
        ({"python3": "3.11"}, "current", "current", "python3", "GMETA_STACK=current"),
        ({"python3": "3.11", "python3.13": "3.13"}, "current", "current", "python3.13", "GMETA"),
    ],
)
def test_which_stack_and_why(clone, pythons, asked, stack, python, why):
    for name, version in pythons.items():
        clone.add_command(name, f"echo {version} /opt/{name} cpython-{version.replace('.', '')}")
    info = info_of(clone, GMETA_STACK=asked)
    assert (info["stack"], info["python"]) == (stack, f"/opt/{python}")
    assert why in info["why"]
    file = {"pinned": "constraints.txt", "current": "constraints-current.txt"}[stack]
    assert info["constraints"] == file
    version = info["tensorflow"].split()[-1]
    assert f"tensorflow=={version}" in (ROOT / file).read_text().splitlines()
    assert not (clone.root / ".venv").exists()


@pytest.mark.parametrize(
    ("asked", "version", "message"),
    [
        ("pinned", "3.13", "the pinned stack runs on Python 3.10, 3.11 and 3.12"),
        ("current", "3.10", "the current stack runs on Python 3.11, 3.12 and 3.13"),
    ],
)
def test_a_stack_that_the_python_does_not_have(clone, asked, version, message):
    clone.add_command("python3", f"echo {version} /opt/python cpython-3")
    run = clone.setup(GMETA_STACK=asked)
    assert_failed(run, f"no suitable Python: {message}.*{version} /opt/python", "--with-uv")


def test_an_unknown_stack(clone):
    clone.add_python()
    run = clone.setup(GMETA_STACK="newest")
    assert_failed(run, "expected GMETA_STACK to be pinned or current, got newest", "unset it")


# Stands for uv: installs nothing, writes down what it was asked, and names a Python.
FAKE_UV = """
echo "$*" >>"$HOME/asked-uv"
if [ "$2" = find ]; then echo "$HOME/bin/of-uv"; fi
"""


@pytest.mark.parametrize(("asked", "version"), [("", "3.11"), ("current", "3.13")])
def test_uv_installs_a_python_where_none_is_suitable(clone, asked, version):
    clone.add_command("python3", "echo 3.9 /opt/python3.9 cpython-39")
    clone.add_command("uv", FAKE_UV)
    clone.add_command("of-uv", f"echo {version} /uv/python{version} cpython-3")
    run = clone.setup("--with-uv", GMETA_STACK=asked)
    # This Python makes no environments; it was found and taken.
    assert_failed(run, f"/uv/python{version} cannot make virtual environments", "python3-venv")
    asked_uv = (clone.root.parent / "asked-uv").read_text().splitlines()
    assert asked_uv == [f"python install {version}", f"python find {version}"]


def test_uv_is_left_alone_where_there_is_a_python(clone):
    clone.add_command("python3", "echo 3.12 /opt/python3.12 cpython-312")
    clone.add_command("uv", FAKE_UV)
    assert_failed(clone.setup("--with-uv"), "/opt/python3.12 cannot make", "python3-venv")
    assert not (clone.root.parent / "asked-uv").exists()


def test_no_uv_and_a_uv_that_fails(clone):
    assert_failed(clone.setup("--with-uv"), "there is no uv", "pip install uv")
    clone.add_command("uv", "exit 2")
    assert_failed(clone.setup("--with-uv"), "uv could not install Python 3.11", "PYTHON=")


def test_no_python_at_all(clone):
    assert_failed(clone.setup(), "no suitable Python.*Found: none", "apt-get install python3")


def test_no_compiler(clone):
    clone.add_python()
    before = clone.files()
    run = clone.setup()
    assert_failed(run, r"no C\+\+17 compiler", r"apt-get install g\+\+")
    assert "GMETA_WITHOUT_HOROVOD=1" in run.stderr
    assert clone.files() == before


def test_compiler_without_its_library_is_no_compiler(clone):
    clone.add_python()
    clone.add_command("g++", "echo 'vector: no such file' >&2; exit 1")
    assert_failed(clone.setup(), r"no C\+\+17 compiler", r"apt-get install g\+\+")


@pytest.mark.parametrize("content", ["horovod/torch/mpi_lib.so", None])
def test_cached_horovod_without_tensorflow(clone, content):
    clone.add_python()
    wheel = clone.folder("wheel") / "horovod-0.28.1-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    if content is None:
        wheel.write_text("cut off in the middle")
    else:
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(content, "")
    before = clone.files()
    run = clone.setup()
    assert_failed(run, f"built without TensorFlow: {re.escape(str(wheel))}", "remove that file")
    assert clone.files() == before


@pytest.mark.slow
def test_no_registry(clone):
    clone.add_python()
    alone = {"GMETA_WITHOUT_HOROVOD": "1"}
    # What a killed run leaves: without its mark it must not pass for a finished environment.
    environment = clone.folder("environment", **alone)
    environment.mkdir(parents=True)
    (environment / "half-done").touch()
    run = clone.setup(
        PIP_CONFIG_FILE=os.devnull,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",  # the discard port: nothing listens
        PIP_RETRIES="0",
        **alone,
    )
    assert_failed(run, "pip could not fetch", "PIP_INDEX_URL=")
    log = re.search(r"The end of (\S+\.log)", run.stderr)
    assert log, run.stderr
    assert "127.0.0.1" in Path(log[1]).read_text()
    assert not (clone.root / ".venv").exists()
    assert not environment.exists()


def test_foreign_venv_is_left_alone(clone):
    clone.add_python()
    (clone.root / ".venv").mkdir()
    (clone.root / ".venv" / "mine").touch()
    run = clone.setup()
    assert_failed(run, "this script did not make it", "move it away")
    assert (clone.root / ".venv" / "mine").exists()


@pytest.mark.slow
def test_second_clone_uses_the_cache_and_then_has_nothing_to_do(clone):
    clone.add_python()
    for name in ("gmeta_tf", "models", "launch"):
        (clone.root / name).mkdir(exist_ok=True)
        (clone.root / name / "__init__.py").touch()
    alone = {"GMETA_WITHOUT_HOROVOD": "1"}
    # Stands for a finished environment: this one's packages and a command.
    environment = clone.folder("environment", **alone)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site_packages = next(environment.glob("lib/python*/site-packages"))
    borrowed = [folder for folder in sys.path if folder.endswith("site-packages")]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed))
    (environment / "bin/prefix").write_text("#!/usr/bin/python\nimport sys\nprint(sys.prefix)\n")
    (environment / ".complete").touch()

    run = clone.setup(**alone)
    assert run.returncode == 0, run.stderr
    venv = clone.root / ".venv"

    def output_of(*command):
        return subprocess.check_output(command, cwd=clone.cache, text=True).split()

    assert output_of(venv / "bin/prefix") == [str(venv)]
    found = "import gmeta_tf.models, numpy; print(gmeta_tf.models.__file__)"
    assert output_of(venv / "bin/python", "-c", found) == [str(clone.root / "models/__init__.py")]

    before = os.stat(venv).st_mtime_ns
    assert clone.setup(**alone).stdout == "setup: .venv is ready (nothing changed)\n"
    assert os.stat(venv).st_mtime_ns == before
    with (clone.root / "setup.py").open("a") as file:
        file.write("# changed")
    assert "making .venv" in clone.setup(**alone).stdout


def make_sdist(folder: Path) -> tuple[Path, str]:
    """A source distribution whose setup.py asks for scikit-build, as SOK's does; and its hash."""
    source = folder / "merlin-sok-2.1.0"
    source.mkdir(parents=True)
    (source / "setup.py").write_text(
        "from skbuild import setup\nsetup(name='merlin-sok', version='2.1.0', packages=[])\n"
    )
    (source / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: merlin-sok\nVersion: 2.1.0\n")
    archive = folder / "merlin-sok-2.1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(source, source.name)
    return archive, hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.fixture
def finished(clone):
    """A clone that lacks nothing but SOK's source: its environment borrows this one's packages."""
    clone.add_python()
    for name in ("gmeta_tf", "models", "launch"):
        (clone.root / name).mkdir(exist_ok=True)
        (clone.root / name / "__init__.py").touch()
    environment = clone.folder("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site_packages = next(environment.glob("lib/python*/site-packages"))
    borrowed = [folder for folder in sys.path if folder.endswith("site-packages")]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed))
    (environment / "bin/horovodrun").write_text("#!/usr/bin/python\nprint('proved\\nproved')\n")
    (environment / ".complete").touch()
    return clone


@pytest.mark.slow
def test_soks_source_is_fetched_once_and_kept_by_its_hash(finished, tmp_path):
    archive, digest = make_sdist(tmp_path / "registry")
    pin = finished.root / "launch/sok-requirements.txt"
    pin.write_text(f"# a comment\nmerlin-sok==2.1.0 --hash=sha256:{digest}\n")
    registry = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    registry["PIP_FIND_LINKS"] = str(archive.parent)
    run = finished.setup(**registry)
    assert run.returncode == 0, run.stderr
    kept = finished.root / ".venv/sources/merlin-sok-2.1.0.tar.gz"
    assert kept.read_bytes() == archive.read_bytes()
    assert finished.folder("sok") == kept.parent.resolve()
    archive.unlink()
    assert finished.setup(**registry).stdout == "setup: .venv is ready (nothing changed)\n"
    (finished.root / "setup.py").write_text((finished.root / "setup.py").read_text() + "# more")
    again = finished.setup(**registry)
    assert "making .venv" in again.stdout
    assert "fetching SOK" not in again.stdout
    assert kept.exists()


@pytest.mark.slow
def test_another_source_of_sok_than_the_pinned_one_is_not_kept(finished, tmp_path):
    """One can train without it, so the set-up goes on, says so, and tries again the next time."""
    archive, digest = make_sdist(tmp_path / "registry")
    assert digest not in (finished.root / "launch/sok-requirements.txt").read_text()
    for _ in range(2):
        run = finished.setup(
            PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(archive.parent)
        )
        assert run.returncode == 0, run.stderr
        assert "SOK's source could not be fetched, and its tests will fail" in run.stdout
        assert "is ready" in run.stdout
        assert not (finished.root / ".venv/sources").exists()
        assert not finished.folder("sok").exists()
    logs = list((finished.cache / "logs").glob("*.log"))
    assert len(logs) == 2
    for log in logs:
        assert "THESE PACKAGES DO NOT MATCH THE HASHES" in log.read_text()


def test_unknown_option(clone):
    run = clone.setup("--quick")
    assert run.returncode == 2
    assert "usage: bash launch/setup.sh" in run.stderr


def test_keys_follow_the_pins_and_nothing_else(clone):
    clone.add_python()
    environment, wheel = clone.folder("environment"), clone.folder("wheel")
    (clone.root / "setup.py").write_text("# changed")
    assert clone.folder("environment") == environment
    constraints = clone.root / "constraints.txt"
    constraints.write_text(constraints.read_text().replace("\nduckdb==", "\nduckdb==1"))
    assert clone.folder("environment") != environment
    assert clone.folder("wheel") == wheel
    text = constraints.read_text()
    constraints.write_text(re.sub(r"\ntensorflow==\S+", "\ntensorflow==2.16.1", text))
    assert clone.folder("wheel") != wheel


# Stands for Python: it makes an environment with itself, and its pip fails at the packages that are
# in constraints.txt and leaves their list in the home.
FAKE_PYTHON = """
for last; do :; done
case "$*" in
  *_base_executable*) echo "3.11 $0 cpython-311" ;;
  "-m venv "*) mkdir -p "$last/bin" && cp "$0" "$last/bin/python" ;;
  *others.txt) cat "$last" >"$HOME/asked" && exit 1 ;;
esac
"""


def test_spark_is_for_where_there_is_java(clone):
    clone.add_command("python3", FAKE_PYTHON)
    alone = {"GMETA_WITHOUT_HOROVOD": "1"}
    asked, environments = [], []
    for has_java in (False, True):
        if has_java:
            clone.add_command("java", "")
        environments.append(clone.folder("environment", **alone))
        assert_failed(clone.setup(**alone), "pip could not fetch the packages", "registry")
        lines = (clone.root.parent / "asked").read_text().splitlines()
        asked.append({line.split("==")[0] for line in lines if "==" in line})
    assert asked[1] - asked[0] == {"py4j", "pyspark"}
    assert asked[0] < asked[1]
    assert environments[0] != environments[1]


@pytest.mark.parametrize("constraints", ["constraints.txt", "constraints-current.txt"])
def test_everything_asked_for_is_pinned(monkeypatch, constraints):
    asked = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: asked.update(options))
    exec((ROOT / "setup.py").read_text(), {"__file__": str(ROOT / "setup.py")})
    extras = asked["extras_require"]
    names = {
        re.match(r"[\w-]+", requirement)[0].lower()
        for group in (
            asked["install_requires"],
            *map(extras.get, ("cpu", "distributed", "spark", "dev", "s3")),
        )
        for requirement in group
    }
    pins = "".join(
        (ROOT / name).read_text() for name in (constraints, "launch/build-requirements.txt")
    )
    pinned = {name.lower() for name in re.findall(r"^([\w-]+)==", pins, re.MULTILINE)}
    assert "keras" in names
    assert names - pinned == set()
