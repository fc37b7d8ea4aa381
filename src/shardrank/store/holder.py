"""Which process works on an output, told apart from all others that ever did."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that works, or worked, on an output.

    id: unlike that of every other holder. boot_id, pid_namespace, started: which start of the
        machine, which container's pids and which process of that pid are meant; empty where the
        system does not say.
    ray_job_id: as in `ray job list`; None outside of a Ray job.
    """

    id: str
    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: str
    ray_job_id: str | None

    def __str__(self) -> str:
        job = f", Ray job {self.ray_job_id}" if self.ray_job_id else ""
        return f"host {self.host}, process {self.pid}{job}"


def this_process(ray_job_id: str | None = None) -> Holder:
    """The process that asks."""
    return Holder(
        id=uuid4().hex,
        host=socket.gethostname(),
        boot_id=_text("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_link("/proc/self/ns/pid"),
        pid=os.getpid(),
        started=_start(_stat(os.getpid())) or "",
        ray_job_id=ray_job_id,
    )


def is_dead(holder: Holder, observer: Holder) -> bool:
    """True if the holder's process was on the observer's machine and is gone; False if unknown."""
    return _is_here(holder, observer) and _start(_stat(holder.pid)) != holder.started


def is_running(holder: Holder, observer: Holder) -> bool:
    """True if the holder's process is on the observer's machine and runs; False if unknown.

    One that was stopped (SIGSTOP) does not run.
    """
    stat = _stat(holder.pid)
    is_same = _is_here(holder, observer) and _start(stat) == holder.started
    return is_same and stat[0] not in ("T", "t")


def _is_here(holder: Holder, observer: Holder) -> bool:
    here = (observer.host, observer.boot_id, observer.pid_namespace)
    return (holder.host, holder.boot_id, holder.pid_namespace) == here and all(here)


def _start(stat: Sequence[str]) -> str | None:
    """When a process began, in ticks since the machine's start; None if it does not run."""
    return stat[19] if len(stat) > 19 and stat[0] not in ("Z", "X") else None


def _stat(pid: int) -> list[str]:
    """What the system says of a process, from its state on; empty if it does not run."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # another system than Linux, or no such process
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
