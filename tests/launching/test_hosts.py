"""Hosts of lists, hostfiles and schedulers, and what is said of those that cannot be read."""

import pytest

from gmeta_tf.launching.hosts import (
    Host,
    allocate,
    find_hosts,
    hosts_text,
    is_local,
    parse_hostfile,
)

TWO = [Host("h1", 2), Host("h2", 4)]


def test_what_is_given_comes_before_the_scheduler(tmp_path):
    slurm = {"SLURM_JOB_NODELIST": "n1"}
    assert find_hosts(slurm, given="h1:2,h2:4") == (TWO, "--hosts")
    path = tmp_path / "hosts"
    path.write_text("# mine\nh1 slots=2\nh2:3\n\nh2  # one more\n")
    assert find_hosts(slurm, hostfile=str(path))[0] == TWO


@pytest.mark.parametrize(
    ("nodes", "tasks", "hosts"),
    [
        ("n[01-03,7],login", "4(x3),2,1", "n01:4,n02:4,n03:4,n7:2,login:1"),
        ("a1-[9-10]b[1-2]", "3(x4)", "a1-9b1:3,a1-9b2:3,a1-10b1:3,a1-10b2:3"),
        ("one", "8", "one:8"),
    ],
)
def test_hosts_of_slurm(nodes, tasks, hosts):
    found, where = find_hosts({"SLURM_JOB_NODELIST": nodes, "SLURM_TASKS_PER_NODE": tasks})
    assert hosts_text(found) == hosts
    assert where == "SLURM_JOB_NODELIST"


def test_hosts_of_an_mpijob_and_of_pbs(tmp_path):
    (tmp_path / "etc/mpi").mkdir(parents=True)
    (tmp_path / "etc/mpi/hostfile").write_text("job-worker-0.job slots=2\n")
    assert find_hosts({}, root=str(tmp_path))[0] == [Host("job-worker-0.job", 2)]
    (tmp_path / "nodes").write_text("p1\np1\np2\n")
    path = str(tmp_path / "nodes")
    assert find_hosts({"PBS_NODEFILE": path}, root=str(tmp_path / "none")) == (
        [Host("p1", 2), Host("p2", 1)],
        f"PBS_NODEFILE ({path})",
    )
    other = {"OMPI_MCA_orte_default_hostfile": path, "PBS_NODEFILE": "nowhere"}
    assert hosts_text(find_hosts(other, root=str(tmp_path))[0]) == "p1:2,p2:1"


def test_this_host_alone(tmp_path):
    assert find_hosts({}, num_ranks=3, root=str(tmp_path)) == ([Host("localhost", 3)], "this host")
    assert is_local("localhost")
    assert not is_local("192.0.2.1")  # of a block that belongs to nobody
    assert not is_local("no-such-host.invalid")


def test_the_last_host_gets_what_is_left():
    assert hosts_text(allocate(TWO, 3)) == "h1:2,h2:1"
    assert hosts_text(allocate(TWO, 2)) == "h1:2"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find_hosts({}, given="h1:2,h1:2"), "name each host once .* got 'h1:2'"),
        (lambda: find_hosts({}, given="h1:no"), "with its slots, got 'h1:no'"),
        (lambda: find_hosts({}, given="a", hostfile="b"), "expected --hosts or --hostfile, got"),
        (lambda: find_hosts({}, root="/none"), "expected -np, the number of ranks"),
        (
            lambda: find_hosts({"SLURM_JOB_NODELIST": "n[1-2]"}),
            r"tell each node's tasks, got 'n\[1-2\]' and '1'",
        ),
        (lambda: parse_hostfile("h1 slots=0", "F"), "F, line 1: expected a host, .* 'h1 slots=0'"),
        (lambda: parse_hostfile("# none\n", "F"), "F names no host"),
        (lambda: allocate(TWO, 7), "expected slots for -np 7 ranks, got 6 on h1:2,h2:4"),
    ],
)
def test_what_cannot_be_read(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_hostfile_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no hostfile nowhere"):
        find_hosts({}, hostfile="nowhere")
