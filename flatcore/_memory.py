"""How much memory is left: the machine's, or what a container or a batch job leaves of it.

Control groups limit what their processes hold together. Version 2 states a limit in ``memory.max``, version 1 in
``memory.limit_in_bytes``; a group's parents limit it as well. Cached pages of files, mapped weights among them, give
way and count as free. Where a container hides its own path, the limits stand at the top of what is mounted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_SMALL = 1 << 24  # bytes whose allocation is not foreseen
_VERSION_2 = ("memory.max", "memory.current", "")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def available_memory(root: str = "/") -> int | None:
    """Bytes that can be allocated without swapping, or None where the system does not tell."""
    free = _entry(Path(root, "proc/meminfo"), "MemAvailable:")
    rooms = [] if free is None else [free * 1024]
    for folder, names in _control_groups(Path(root)):
        room = _room(folder, *names)
        rooms += [] if room is None else [room]
    return min(rooms, default=None)


def check_memory(what: str, needed: int) -> None:
    """Say how much memory is missing before an allocation that cannot succeed.

    Asking the system takes a millisecond; what is small is not worth it.
    """
    if needed <= _SMALL:
        return
    available = available_memory()
    if available is not None and needed > available:
        raise MemoryError(f"{what} needs {needed / 1e9:.1f} GB; {available / 1e9:.1f} GB are available")


def _control_groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Folders of this process's groups and of their parents, with the names of their files."""
    try:
        lines = Path(root, "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = Path(root, "sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            yield group, _VERSION_1 if controllers else _VERSION_2
            if group == top:
                break


def _room(folder: Path, limit_name: str, usage_name: str, prefix: str) -> int | None:
    """What a group may still allocate; None where it has no limit."""
    try:
        limit, usage = (int((folder / name).read_text()) for name in (limit_name, usage_name))
    except (OSError, ValueError):  # no such group or limit; without one, version 2 says "max"
        return None
    cached = (_entry(folder / "memory.stat", f"{prefix}{kind}_file") or 0 for kind in ("active", "inactive"))
    return max(0, limit - usage + sum(cached))


def _entry(file: Path, name: str) -> int | None:
    """The number behind `name` in a file of one entry a line."""
    try:
        with file.open() as lines:
            return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), None)
    except OSError:
        return None
