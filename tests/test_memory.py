"""What is left of memory: the machine's and that of control groups, read from made-up system files."""

import numpy as np
import pytest

import flatcore as fc
from flatcore._memory import available_memory, check_memory

MB = 1 << 20


def system(root, groups="", **files):
    """System files below `root`: 1000 MB available, the groups, and {path with __ for /: text}."""
    given = {"proc__meminfo": "MemTotal: 4096000 kB\nMemAvailable: 1024000 kB\n", "proc__self__cgroup": groups, **files}
    for name, text in given.items():
        path = root.joinpath(*name.split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def second_version(folder, limit, usage, files=0):
    stem = f"sys__fs__cgroup__{folder}" if folder else "sys__fs__cgroup"
    stat = f"anon 5\ninactive_file {files // 4}\nactive_file {files - files // 4}\nshmem 9\n"
    return {f"{stem}__memory.max": f"{limit}\n", f"{stem}__memory.current": f"{usage}\n", f"{stem}__memory.stat": stat}


def first_version(folder, limit, usage, files=0):
    stem = f"sys__fs__cgroup__memory__{folder}" if folder else "sys__fs__cgroup__memory"
    stat = f"inactive_file 3\ntotal_inactive_file {files // 4}\ntotal_active_file {files - files // 4}\n"
    names = {"limit_in_bytes": f"{limit}\n", "usage_in_bytes": f"{usage}\n", "stat": stat}
    return {f"{stem}__memory.{name}": text for name, text in names.items()}


def test_without_control_groups_the_machine_counts(tmp_path):
    assert available_memory(system(tmp_path)) == 1000 * MB


def test_where_the_system_does_not_tell(tmp_path):
    assert available_memory(str(tmp_path)) is None


@pytest.mark.parametrize("version", [second_version, first_version])
def test_a_group_leaves_less_than_the_machine(tmp_path, version):
    groups = "0::/job\n" if version is second_version else "5:devices:/job\n4:memory,cpu:/job\n0::/job\n"
    root = system(tmp_path, groups, **version("job", 300 * MB, 120 * MB, files=20 * MB))
    assert available_memory(root) == 200 * MB


@pytest.mark.parametrize("version", [second_version, first_version])
def test_parents_limit_their_groups(tmp_path, version):
    groups = "0::/slurm/job/step\n" if version is second_version else "4:memory:/slurm/job/step\n"
    files = version("slurm__job__step", 500 * MB, 0) | version("slurm", 90 * MB, 50 * MB)
    assert available_memory(system(tmp_path, groups, **files)) == 40 * MB


@pytest.mark.parametrize("version", [second_version, first_version])
def test_a_container_that_hides_its_path_has_its_limit_at_the_top(tmp_path, version):
    groups = "0::/../host/path\n" if version is second_version else "4:memory:/docker/0123\n"
    assert available_memory(system(tmp_path, groups, **version("", 64 * MB, 4 * MB))) == 60 * MB


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_groups_without_a_limit(tmp_path, limit):
    files = second_version("job", limit, 5 * MB) | first_version("job", limit, 5 * MB)
    assert available_memory(system(tmp_path, "4:memory:/job\n0::/job\n", **files)) == 1000 * MB


def test_a_group_beyond_its_limit_has_nothing_left(tmp_path):
    assert available_memory(system(tmp_path, "0::/job\n", **second_version("job", MB, 3 * MB))) == 0


def test_missing_memory_is_said_before_an_allocation(monkeypatch):
    monkeypatch.setattr("flatcore._memory.available_memory", lambda: 10**8)
    check_memory("something small", 10**7)
    check_memory("what fits", 10**8)
    with pytest.raises(MemoryError, match=r"the answer needs 0\.2 GB; 0\.1 GB are available"):
        check_memory("the answer", 2 * 10**8)
    with pytest.raises(MemoryError, match=r"a dense 10000 × 10000 matrix needs 0\.8 GB"):
        fc.Hessian(
            fc.LinearChain([np.ones((5000, 1)), np.ones((1, 5000))]), fc.QuadraticLoss(np.ones((1, 1)), np.ones((1, 1)))
        ).dense()
