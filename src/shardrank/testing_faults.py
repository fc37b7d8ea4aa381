"""A file system that fails on command, below everything that shardrank does with a store.

    faults = Faults.scripted("create", "applied_then_lost", None, "conflict")
    with failing_store(faults) as url:
        Storage(url).create_exclusive("name", b"data")

`failing_store` wraps a place in memory, in a folder or on S3 as an fsspec file system of its own
protocol, so that all of shardrank's own code for stores is exercised. It lives in this process.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args
from uuid import uuid4

import fsspec
from fsspec.spec import AbstractFileSystem

Operation = Literal["create", "replace", "read", "list", "stat", "delete"]
FaultKind = Literal[
    "error_500", "error_503", "timeout", "reset", "slow", "applied_then_lost", "conflict",
    "no_space", "read_only", "stale_listing", "truncated_read",
    "dies_before", "dies_after", "lands_late",
]  # fmt: skip
"""What a call can meet.

applied_then_lost: done, but the answer is a reset. conflict: HTTP 409 to a conditional put.
stale_listing: the listing before the last write. truncated_read: half of the bytes, no error.
dies_before, dies_after: the caller's process dies before or after the call is done.
lands_late: the process dies, and its write is done when the test says `land()`: a zombie's.
"""

DEATHS: tuple[FaultKind, ...] = ("dies_before", "dies_after", "lands_late")
_WRITES: tuple[Operation, ...] = ("create", "replace", "delete")
_ONLY_AT: dict[FaultKind, tuple[Operation, ...]] = {
    "applied_then_lost": _WRITES,
    "conflict": ("create",),
    "no_space": ("create", "replace"),
    "read_only": _WRITES,
    "stale_listing": ("list",),
    "truncated_read": ("read",),
    "lands_late": _WRITES,
}
_SLOW_SECONDS = 0.01
_PROTOCOL = "faulty"


class ProcessDied(BaseException):
    """Stands for the death of the calling process: no `except Exception` may catch it."""


class StoreAnsweredError(Exception):
    """An HTTP answer that means failure, in the shape of botocore's ClientError."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the store answered {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class Faults:
    """Which calls fail, and how; thread-safe.

    seed: printed by whoever draws it, so that a failure can be had again.
    share: of the calls that meet a fault, from 0 to 1. kinds: what they meet.
    num_met: of each kind, how often it was met.
    """

    def __init__(
        self, seed: int = 0, share: float = 0.0, kinds: Collection[FaultKind] = ()
    ) -> None:
        self.share = share
        self.num_met: Counter[str] = Counter()
        self._kinds = tuple(kinds)
        self._random = random.Random(seed)  # noqa: S311
        self._scripts: dict[str, deque[FaultKind | None]] = defaultdict(deque)
        self._lock = threading.Lock()

    @staticmethod
    def scripted(operation: Operation | Literal["any"], *kinds: FaultKind | None) -> Faults:
        """The next calls of an operation, one kind each; None for a call that succeeds."""
        faults = Faults()
        faults.script(operation, *kinds)
        return faults

    def script(self, operation: Operation | Literal["any"], *kinds: FaultKind | None) -> None:
        """Replace what awaits the next calls. A kind that does not fit a call waits for one."""
        unknown = set(kinds) - {None, *get_args(FaultKind)}
        if unknown:
            raise ValueError(f"unknown kinds of fault: {sorted(map(str, unknown))}")
        with self._lock:
            self._scripts[operation] = deque(kinds)

    def stop(self) -> None:
        """From here on everything succeeds."""
        with self._lock:
            self._scripts.clear()
            self.share = 0.0

    def draw(self, operation: Operation) -> FaultKind | None:
        """What the next call of this operation meets."""
        with self._lock:
            kind = self._draw(operation)
            if kind is not None:
                self.num_met[kind] += 1
            return kind

    def _draw(self, operation: Operation) -> FaultKind | None:
        for name in (operation, "any"):
            script = self._scripts[name]
            if script and _fits(script[0], operation):
                return script.popleft()
        kinds = [kind for kind in self._kinds if _fits(kind, operation)]
        if kinds and self._random.random() < self.share:
            return self._random.choice(kinds)
        return None


def _fits(kind: FaultKind | None, operation: Operation) -> bool:
    return kind is None or operation in _ONLY_AT.get(kind, get_args(Operation))


class FailingFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The fsspec file system behind `failing_store`; paths are `<store>/<path>`."""

    protocol = _PROTOCOL
    conditional_create = True
    cachable = False

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """As fsspec's."""
        found: dict[str, Any] = self._call(path, "stat", lambda store, full: store.fs.info(full))
        return found

    def find(self, path: str, maxdepth: Any = None, withdirs: bool = False, **options: Any) -> Any:
        """As fsspec's; only detail=True is known."""
        found = self._call(path, "list", lambda store, full: store.fs.find(full, detail=True))
        return {info["name"]: info for info in found.values()}

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """As fsspec's; only detail=True is known."""
        return self._call(path, "list", lambda store, full: store.fs.ls(full, detail=True))

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        """As fsspec's."""
        data: bytes = self._call(
            path, "read", lambda store, full: store.fs.cat_file(full, start=start, end=end)
        )
        return data

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """As fsspec's; mode="create" has exactly one winner."""
        if mode == "create":
            self._call(path, "create", lambda store, full: store.create(full, value))
        else:
            self._call(path, "replace", lambda store, full: store.put(full, value))

    def rm_file(self, path: str) -> None:
        """As fsspec's."""
        self._call(path, "delete", lambda store, full: store.fs.rm_file(full))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing: folders appear with their files."""

    def _call(self, path: str, operation: Operation, act: Any) -> Any:
        name, _, rest = self._strip_protocol(path).partition("/")
        return _STORES[name].call(operation, rest, act)


class _Store:
    """A place, what befalls calls to it, and the writes of the dead that are still on their way."""

    def __init__(self, name: str, url: str, faults: Faults) -> None:
        self.name = name
        # A cached listing would hide what others write.
        self.fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.root = root.rstrip("/")
        self.faults = faults
        self.late: list[Any] = []
        self._listings: dict[str, tuple[Any, Any]] = {}
        self._lock = threading.Lock()

    def call(self, operation: Operation, path: str, act: Any) -> Any:
        full = f"{self.root}/{path}" if path else self.root
        kind = self.faults.draw(operation)
        if kind == "lands_late":
            self.late.append(lambda: act(self, full))
            raise ProcessDied
        _fail_before(kind, full)
        result = self._renamed(act(self, full))
        if operation == "list":
            return self._listing(path, result, stale=kind == "stale_listing")
        if kind == "applied_then_lost":
            raise ConnectionResetError(errno.ECONNRESET, "the answer was lost")
        if kind == "dies_after":
            raise ProcessDied
        return result[: len(result) // 2] if kind == "truncated_read" else result

    def create(self, full: str, data: bytes) -> None:
        if "s3" in self.fs.protocol:
            self.fs.pipe_file(full, data, mode="create")
            return
        with self._lock:
            self.fs.invalidate_cache()
            if self.fs.exists(full):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), full)
            self.put(full, data)

    def put(self, full: str, data: bytes) -> None:
        self.fs.makedirs(self.fs._parent(full), exist_ok=True)
        self.fs.pipe_file(full, data)

    def _renamed(self, result: Any) -> Any:
        """Names as the caller knows them: below this store and not where it keeps its files."""
        if isinstance(result, list):
            return [self._renamed(info) for info in result]
        if isinstance(result, dict) and isinstance(result.get("name"), str):
            return {**result, "name": f"{self.name}{result['name'][len(self.root) :]}"}
        if isinstance(result, dict):
            return {path: self._renamed(info) for path, info in result.items()}
        return result

    def _listing(self, path: str, now: Any, *, stale: bool) -> Any:
        """The listing, or the last one that was different."""
        last, before = self._listings.get(path, (type(now)(), type(now)()))
        if last != now:
            last, before = now, last
            self._listings[path] = (last, before)
        return before if stale else now


_STORES: dict[str, _Store] = {}


class FailingStore(str):
    """The URL of a store that fails on command."""

    __slots__ = ()

    def land(self) -> int:
        """Do the writes of processes that have died since; returns how many took effect."""
        store = _STORES[self.removeprefix(f"{_PROTOCOL}://")]
        late, store.late = store.late, []
        num_done = 0
        for write in late:
            try:
                write()
            except (FileExistsError, FileNotFoundError):
                continue
            num_done += 1
        return num_done


@contextmanager
def failing_store(faults: Faults, place: str | None = None) -> Iterator[FailingStore]:
    """The URL of an empty store in this process whose calls meet `faults`.

    place: where the files are: any fsspec URL or local folder, by default a new one in memory.
    """
    fsspec.register_implementation(_PROTOCOL, FailingFileSystem, clobber=True)
    name = uuid4().hex
    _STORES[name] = _Store(name, place or f"memory://{name}", faults)
    try:
        yield FailingStore(f"{_PROTOCOL}://{name}")
    finally:
        del _STORES[name]


def _fail_before(kind: FaultKind | None, full: str) -> None:
    """Raise what the storage libraries raise where a call was not done."""
    if kind == "slow":
        time.sleep(_SLOW_SECONDS)
    elif kind == "dies_before":
        raise ProcessDied
    elif kind == "timeout":
        raise TimeoutError(errno.ETIMEDOUT, "the store did not answer in time")
    elif kind == "reset":
        raise ConnectionResetError(errno.ECONNRESET, "the connection was reset")
    elif kind == "no_space":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), full)
    elif kind == "read_only":
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), full)
    elif kind in ("error_500", "error_503", "conflict"):
        status = {"error_500": 500, "error_503": 503, "conflict": 409}[kind]
        raise OSError(errno.EIO, f"the store answered {status}", full) from StoreAnsweredError(
            status
        )
