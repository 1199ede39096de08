"""The CPU quota of cgroups of both versions, in files as the kernel and container runtimes write them."""

import os

import pytest

from sbnn_tvm.runtime import cpu_quota, thread_counts


@pytest.fixture
def process(tmp_path):
    """Makes a process's folder from its memberships, mounts and the files of its cgroups."""

    def make(memberships, mounts, files):
        (tmp_path / "cgroup").write_text("\n".join(memberships) + "\n")
        lines = [f"31 23 0:28 {root} {tmp_path}{point} rw - {end}" for root, point, end in mounts]
        (tmp_path / "mountinfo").write_text("\n".join(["22 1 8:1 / / rw shared:1 - ext4 /dev/sda rw", *lines]) + "\n")
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return make


V2 = ("/", "/sys/fs/cgroup", "cgroup2 cgroup2 rw")
V1 = ("/", "/sys/fs/cgroup/cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct")


@pytest.mark.parametrize(
    ("memberships", "mounts", "files", "expected"),
    [
        (["0::/"], [V2], {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        (["0::/"], [V2], {"sys/fs/cgroup/cpu.max": "max 100000"}, float("inf")),
        # The least quota on the way up counts.
        (
            ["0::/system/web"],
            [V2],
            {"sys/fs/cgroup/system/web/cpu.max": "800000 100000", "sys/fs/cgroup/system/cpu.max": "300000 100000"},
            3,
        ),
        (
            ["4:cpu,cpuacct:/pod", "3:memory:/other", "0::/"],
            [V1, ("/", "/sys/fs/cgroup/memory", "cgroup cgroup rw,memory")],
            {
                "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        # In a container the path is the host's, and the mount shows the container's part of the tree.
        (
            ["4:cpu,cpuacct:/docker/1f"],
            [("/docker/1f", "/sys/fs/cgroup/cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct")],
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (["0::/../../elsewhere"], [V2], {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        (["0::/"], [V2], {"sys/fs/cgroup/cpu.max": "nonsense"}, float("inf")),
        (["0::/"], [], {}, float("inf")),
    ],
)
def test_quota(process, memberships, mounts, files, expected):
    assert cpu_quota.cpu_quota(process(memberships, mounts, files)) == expected


def test_no_cgroups(tmp_path):
    assert cpu_quota.cpu_quota(tmp_path) == float("inf")


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.9, 1), (2.0, 2), (1e9, None)])
def test_a_fraction_of_a_cpu_does_not_count(monkeypatch, quota, expected):
    monkeypatch.setattr(cpu_quota, "cpu_quota", lambda: quota)
    bound = len(os.sched_getaffinity(0))
    assert cpu_quota.usable_cpus() == min(bound, expected or bound)
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    assert thread_counts.check_num_threads(1000) == min(bound, expected or bound)
    assert 1 <= thread_counts.default_num_threads() <= min(bound, expected or bound)
