"""Files of this machine: created whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from shardrank.store.listing import File

logger = logging.getLogger(__name__)

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}


class LocalFiles:
    """The files below one folder; paths are relative to it.

    exclusive: True until a hard link fails, after which create_exclusive keeps only that nothing
        half-written is ever seen.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self.exclusive = True

    def stat(self, path: str) -> File | None:
        """The file, or None where there is no regular file of that name."""
        try:
            status = os.stat(self.root / path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _file(path, status) if stat.S_ISREG(status.st_mode) else None

    def list_files(self, prefix: str, *, recursive: bool) -> Iterator[File]:
        """The regular files below the folder `prefix`, links followed; none if it is not there.

        Raises FileNotFoundError for a link that leads nowhere: leaving it out would lose a shard.
        """
        return self._list(prefix, recursive, frozenset())

    def _list(
        self, prefix: str, recursive: bool, above: frozenset[tuple[int, int]]
    ) -> Iterator[File]:
        folder = self.root / prefix
        if not folder.is_dir():
            return
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise OSError(errno.ELOOP, f"the link {prefix} leads back to a folder that holds it")
        with os.scandir(folder) as entries:
            for entry in entries:
                path = f"{prefix}/{entry.name}" if prefix else entry.name
                if entry.is_dir():
                    if recursive:
                        yield from self._list(path, recursive, above | {identity})
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    if entry.is_symlink():
                        raise
                    continue  # a temporary file whose writer has just finished
                if stat.S_ISREG(status.st_mode):
                    yield _file(path, status)

    def read_bytes(self, path: str) -> bytes:
        """The whole content. Raises FileNotFoundError."""
        return (self.root / path).read_bytes()

    def open_input(self, path: str) -> Any:
        """The file for random access by pyarrow. Raises FileNotFoundError."""
        return pa.OSFile(str(self.root / path), "r")

    def create_exclusive(self, path: str, data: bytes) -> None:
        """Write a file that was not there, whole, durable, and seen by nobody before that.

        Raises FileExistsError. Of many writers at once exactly one wins, since a hard link never
        replaces a name.
        """
        target = self.root / path
        self.make_folder(str(Path(path).parent))
        temporary = _write_temporary(target.parent, data)
        try:
            self._publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def _publish(self, temporary: Path, target: Path) -> None:
        if self.exclusive:
            try:
                os.link(temporary, target)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self.give_up_exclusive()
            else:
                return
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        temporary.rename(target)

    def give_up_exclusive(self) -> None:
        """Go on with the weaker promise, and say so, once."""
        self.exclusive = False
        logger.warning(
            "%s has no hard links: files still appear whole, but let only one job at a time write "
            "to it",
            self.root,
        )

    def replace(self, path: str, data: bytes) -> None:
        """Write a file whether or not it was there; a reader sees the old or the new content."""
        target = self.root / path
        self.make_folder(str(Path(path).parent))
        temporary = _write_temporary(target.parent, data)
        try:
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def delete(self, path: str) -> None:
        """Take a file away. Raises FileNotFoundError."""
        (self.root / path).unlink()

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it."""
        _make_folder(self.root / path)

    @property
    def location(self) -> str:
        """One spelling of the root, for comparing places: links resolved."""
        return os.path.realpath(self.root)


def _file(path: str, status: os.stat_result) -> File:
    return File(path=path, size=status.st_size, etag=str(status.st_mtime_ns))


def _write_temporary(folder: Path, data: bytes) -> Path:
    """A durable file under a name that no glob matches, with the permissions of the umask."""
    path = folder / f".{uuid4().hex}.tmp"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    if folder != folder.parent:
        _make_folder(folder.parent)
    try:
        # Another writer may make the folder at any moment: only mkdir itself can tell.
        folder.mkdir(exist_ok=True)
    except FileExistsError as error:
        # What FileExistsError means to create_exclusive is something else.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system knows how to."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
