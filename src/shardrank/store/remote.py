"""Files behind fsspec: S3 with conditional writes, others with what they can do."""

from __future__ import annotations

import errno
import functools
import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import fsspec

from shardrank.store.listing import File

logger = logging.getLogger(__name__)

_S3_PROTOCOLS = {"s3", "s3a"}
_S3_OPTIONS = {
    # A cached listing would show units as pending that another worker has committed.
    "use_listings_cache": False,
    "skip_instance_cache": True,
    "config_kwargs": {"connect_timeout": 10, "retries": {"max_attempts": 2, "mode": "standard"}},
}
_ETAG_KEYS = ("ETag", "etag", "md5Hash", "md5", "mtime", "LastModified", "last_modified", "created")
_CONFLICT_ATTEMPTS = 6
_ONE_AT_A_TIME = threading.Lock()
"""What makes look-and-write exclusive among the threads of one process at least."""


class RemoteFiles:
    """The files below one URL of any fsspec file system; paths are relative to it.

    exclusive: True where create_exclusive has exactly one winner (S3, a file system that says so
        by `conditional_create`, and memory:// within one process); elsewhere it is a look and then
        a write.
    """

    def __init__(self, url: str) -> None:
        protocol = url.partition("://")[0]
        if protocol in _S3_PROTOCOLS:
            self.fs = s3_connection(os.getpid())
            root = self.fs._strip_protocol(url)
        else:
            self.fs, root = fsspec.core.url_to_fs(url)
        self.root = root.rstrip("/")
        self.protocol = protocol
        self._is_conditional = protocol in _S3_PROTOCOLS or getattr(
            self.fs, "conditional_create", False
        )
        self.exclusive = self._is_conditional or protocol == "memory"
        self._warned = False

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def stat(self, path: str) -> File | None:
        """The file, or None where there is none of that name."""
        self.fs.invalidate_cache()
        try:
            info = self.fs.info(self._full(path))
        except FileNotFoundError:
            return None
        return _file(path, info) if info["type"] == "file" else None

    def list_files(self, prefix: str, *, recursive: bool) -> Iterator[File]:
        """The files below the folder `prefix`, by one listing; none if it is not there."""
        self.fs.invalidate_cache()
        folder = self._full(prefix)
        if recursive:
            infos = self.fs.find(folder, detail=True).values()
        else:
            try:
                infos = self.fs.ls(folder, detail=True)
            except FileNotFoundError:
                infos = []
        start = len(self.root) + 1
        for info in infos:
            name = info["name"]
            # Object stores keep empty objects as markers of folders, and `find` of a file is it.
            if info["type"] == "file" and not name.endswith("/") and name.startswith(f"{folder}/"):
                yield _file(name[start:], info)

    def read_bytes(self, path: str) -> bytes:
        """The whole content. Raises FileNotFoundError."""
        self.fs.invalidate_cache()
        size = int(self.fs.info(self._full(path))["size"] or 0)
        return _whole(bytes(self.fs.cat_file(self._full(path))), size)

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file."""
        return _whole(
            bytes(self.fs.cat_file(self._full(path), start=start, end=stop)), stop - start
        )

    def create_exclusive(self, path: str, data: bytes) -> None:
        """Put a file that was not there, in one put. Raises FileExistsError."""
        full = self._full(path)
        if not self._is_conditional or not self.exclusive:
            self._create_after_a_look(path, data)
            return
        for attempt in range(_CONFLICT_ATTEMPTS):
            try:
                self.fs.pipe_file(full, data, mode="create")
            except OSError as error:
                status = http_status(error)
                if status == 412:
                    raise FileExistsError(full) from error
                # 409: another conditional put of the same name is in flight; who wins is open.
                if status != 409 or attempt == _CONFLICT_ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * 2**attempt)
            else:
                return

    def give_up_exclusive(self) -> None:
        """Go on with the weaker promise, and say so, once."""
        self.exclusive = False
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s is not known to create files exclusively: let only one job at a time write "
                "to it",
                self.location,
            )

    def _create_after_a_look(self, path: str, data: bytes) -> None:
        if not self.exclusive:
            self.give_up_exclusive()
        with _ONE_AT_A_TIME:
            self.fs.invalidate_cache()
            if self.fs.exists(self._full(path)):
                raise FileExistsError(self._full(path))
            self.replace(path, data)

    def replace(self, path: str, data: bytes) -> None:
        """Put a file whether or not it was there."""
        full = self._full(path)
        self.fs.makedirs(self.fs._parent(full), exist_ok=True)
        self.fs.pipe_file(full, data)

    def delete(self, path: str) -> None:
        """Take a file away. Raises FileNotFoundError where the store can tell."""
        self.fs.rm_file(self._full(path))

    def make_folder(self, path: str) -> None:
        """Nothing: folders appear with their files."""

    @property
    def location(self) -> str:
        """One spelling of the root, for comparing places."""
        return f"{'s3' if self.protocol in _S3_PROTOCOLS else self.protocol}://{self.root}"


@functools.lru_cache(maxsize=1)
def s3_connection(process: int) -> Any:
    """One connection for all buckets: making one takes half a second.

    process: its id, since a forked child must not use its parent's.
    """
    return fsspec.filesystem("s3", **_S3_OPTIONS)


class RangeFile(io.RawIOBase):
    """A remote file that fetches exactly the ranges asked of it, and keeps none.

    pyarrow itself asks for the column chunks it needs and merges those that lie together; a cache
    that reads ahead would fetch what lies between.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes from the start."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, and return the new place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes from here; all the rest if size is negative or None."""
        stop = self._size if size is None or size < 0 else min(self._place + size, self._size)
        if stop <= self._place:
            return b""
        data = self._fetch(self._place, stop)
        self._place += len(data)
        return data

    def readall(self) -> bytes:
        """All the rest."""
        return self.read(-1)


def _whole(data: bytes, size: int) -> bytes:
    """An answer that was cut short must not be taken for a file that is broken."""
    if len(data) < size:
        raise OSError(errno.EIO, f"the store gave {len(data)} of {size} bytes")
    return data


def _file(path: str, info: dict[str, Any]) -> File:
    etag = next((info[key] for key in _ETAG_KEYS if info.get(key) is not None), "")
    if isinstance(etag, datetime):
        # memory:// gives the same moment as a datetime here and as seconds there.
        etag = etag.timestamp()
    return File(path=path, size=int(info["size"] or 0), etag=str(etag).strip('"'))


def http_status(error: BaseException) -> int | None:
    """The status of the answer behind an error of the storage library, if it came of one."""
    response = getattr(error.__cause__, "response", None)
    if not isinstance(response, dict):
        return None
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(status) if status is not None else None
