"""The limits of both versions of cgroup, nested and without."""

from gmeta_tf.launching.containers import available_memory_bytes, cpu_quota, memory_limit_bytes

GIB = 1 << 30


def put(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def test_version_2_takes_the_smallest_of_a_group_and_those_above(tmp_path):
    put(tmp_path, "proc/self/cgroup", "0::/pod/own")
    put(tmp_path, "proc/meminfo", f"MemTotal: 1 kB\nMemAvailable: {8 * GIB // 1024} kB")
    put(tmp_path, "sys/fs/cgroup/pod/cpu.max", "150000 100000")
    put(tmp_path, "sys/fs/cgroup/pod/own/cpu.max", "300000 100000")
    put(tmp_path, "sys/fs/cgroup/cpu.max", "max 100000")
    put(tmp_path, "sys/fs/cgroup/pod/memory.max", 4 * GIB)
    put(tmp_path, "sys/fs/cgroup/pod/own/memory.max", "max")
    put(tmp_path, "sys/fs/cgroup/pod/memory.current", GIB)
    assert cpu_quota(str(tmp_path)) == 1.5
    assert memory_limit_bytes(str(tmp_path)) == 4 * GIB
    assert available_memory_bytes(str(tmp_path)) == 3 * GIB


def test_a_container_whose_tree_begins_at_its_own_group(tmp_path):
    put(tmp_path, "proc/self/cgroup", "0::/../../kubepods/own")
    put(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000")
    assert cpu_quota(str(tmp_path)) == 0.5


def test_version_1(tmp_path):
    put(tmp_path, "proc/self/cgroup", "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x")
    put(tmp_path, "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", 400000)
    put(tmp_path, "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", 100000)
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1)
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", 100000)
    put(tmp_path, "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", 2 * GIB)
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    assert cpu_quota(str(tmp_path)) == 4
    assert memory_limit_bytes(str(tmp_path)) == 2 * GIB


def test_a_machine_without_limits(tmp_path):
    put(tmp_path, "proc/self/cgroup", "0::/user.slice")
    put(tmp_path, "sys/fs/cgroup/user.slice/cpu.max", "max 100000")
    assert cpu_quota(str(tmp_path)) is None
    assert memory_limit_bytes(str(tmp_path)) is None
    assert available_memory_bytes(str(tmp_path)) is None
