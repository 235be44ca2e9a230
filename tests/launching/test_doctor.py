"""What the doctor finds, level by level, and how it is printed."""

import json
import resource
import types

import pytest

from gmeta_tf.cli import doctor as command
from gmeta_tf.cli import main as cli
from gmeta_tf.launching import doctor
from gmeta_tf.launching.doctor import Finding, examine

GIB = 1 << 30


@pytest.fixture
def root(tmp_path):
    """A container with a quota of half the cores that are in sight, 512 MiB, and 64 MiB of shm."""
    for path, text in {
        "proc/self/cgroup": "0::/",
        "proc/meminfo": f"MemAvailable: {8 * GIB // 1024} kB",
        "sys/fs/cgroup/cpu.max": "50000 100000",
        "sys/fs/cgroup/memory.max": str(GIB // 2),
        "dev/shm/x": "",
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return str(tmp_path)


def found(findings):
    return {finding.what: finding for finding in findings}


def test_a_small_container(root, monkeypatch):
    usage = types.SimpleNamespace(total=64 << 20, free=1 << 20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 1024))
    monkeypatch.setattr(doctor, "own_address", lambda: "127.0.1.1")
    findings = found(examine(".", root))
    assert findings["cores"].level == "warning"
    assert "time for 0.5 of them (the container's CPU quota)" in findings["cores"].text
    assert "start at most 1 rank(s)" in findings["cores"].remedy
    assert findings["memory"].level == "error"
    assert "0.5 GiB free, the container's limit is 0.5 GiB" in findings["memory"].text
    assert findings["/dev/shm"].text.startswith("64 MiB")
    assert "--shm-size" in findings["/dev/shm"].remedy
    assert findings["disk"].level == "warning"
    assert findings["open files"].remedy == "ulimit -n 4096, as root"
    assert "ranks of other hosts could not reach it" in findings["own name"].text
    assert all(finding.remedy for finding in findings.values() if finding.level != "ok")


def test_a_name_that_does_not_resolve(monkeypatch):
    monkeypatch.setattr(doctor, "own_address", lambda: None)
    finding = found(examine())["own name"]
    assert finding.level == "error"
    assert "/etc/hosts" in finding.remedy


def test_a_folder_that_is_to_be_made_is_looked_at_where_it_will_be(tmp_path):
    assert str(tmp_path) in found(examine(str(tmp_path / "a/b")))["disk"].text


def test_versions_that_the_package_does_not_take(monkeypatch):
    requires = ["numpy>=99", "horovod==0.1; extra == 'distributed'", "keras>=3"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: requires)
    finding = found(examine())["versions"]
    assert finding.level == "error"
    assert "; expected numpy>=99, got " in finding.text
    assert "keras>=3" not in finding.text


@pytest.mark.parametrize(
    ("printed", "stderr", "level", "text"),
    [
        ('noise\n["2.16.2", true, false, false, 0]\n', "", "ok", "TensorFlow 2.16.2, built with G"),
        ('["2.16.2", true, false, false, 2]', "", "warning", "TensorFlow sees 2 GPU(s)"),
        ('["2.16.2", false, false, false, 0]', "", "error", "built with nothing"),
        ("", "Traceback\nImportError: no symbol", "error", "does not load: ImportError: no symbol"),
    ],
)
def test_horovod(printed, stderr, level, text, monkeypatch):
    done = types.SimpleNamespace(stdout=printed, stderr=stderr)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: done)
    finding = doctor.horovod_finding()
    assert finding.level == level
    assert text in finding.text


def test_its_status_and_json_say_whether_there_are_errors(monkeypatch, capsys):
    monkeypatch.setattr(command, "horovod_finding", lambda: Finding("ok", "Horovod", "loads"))
    cli.main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert {"what": "Horovod", "level": "ok", "text": "loads", "remedy": ""} in told["findings"]
    assert {choice["name"] for choice in told["network"]} >= {"NCCL_IB_HCA", "HOROVOD_GLOO_IFACE"}
    bad = Finding("error", "Horovod", "does not load", "build it")
    monkeypatch.setattr(command, "horovod_finding", lambda: bad)
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "error    Horovod: does not load\n         -> build it\n" in shown
    assert "what `gmeta-tf launch` sets" in shown


@pytest.mark.parametrize(
    ("rate", "expected", "level"),
    [(1.0e9, 1.25e9, "ok"), (0.4e9, 1.25e9, "warning"), (0.4e9, None, "ok")],
)
def test_links_against_the_device(rate, expected, level):
    one = {"collective": "alltoall", "between": "other hosts", "bytes_per_second": rate}
    assert command._judged([one], expected).level == level
