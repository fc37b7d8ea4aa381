"""Storage: one root, local or behind any fsspec URL, and the few verbs that shardrank needs.

The verbs have the same contract on every backend. What a caller must decide about comes back as
FileNotFoundError or FileExistsError; every other failure of a store becomes one InputError or
OutputError that names the place and what to do. Storage options and credentials are never looked
at, so that none can reach a log.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import pyarrow as pa

from shardrank.config_values import HOLDS_CREDENTIALS, holds_credentials
from shardrank.errors import InputError, OutputError, OutputFullError, ShardrankError
from shardrank.store.listing import File
from shardrank.store.local import LocalFiles
from shardrank.store.remote import RangeFile, RemoteFiles, http_status

Purpose = Literal["input", "output"]

_ADVICE_BY_ERRNO = {
    errno.EACCES: "permission denied; give this user access",
    errno.EPERM: "permission denied; give this user access",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOSPC: "no space is left; free some and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some and run the same command again",
    errno.ENOTDIR: "a part of the path is a file where a folder is needed; choose another path",
    errno.EISDIR: "it is a folder where a file is needed; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter path",
    errno.ELOOP: "links lead in a circle; give a path without the circle",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_INSUFFICIENT_STORAGE = 507
_NO_CREDENTIALS = (
    "no credentials were found; give them to the storage library "
    "(for S3: AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an instance role)"
)
_UNREACHABLE = "the store cannot be reached; check the network and, for S3, AWS_ENDPOINT_URL"
_ADVICE_BY_NAME = {
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "ProfileNotFound": _NO_CREDENTIALS,
    "EndpointConnectionError": _UNREACHABLE,
    "ConnectTimeoutError": _UNREACHABLE,
    "ConnectionRefusedError": _UNREACHABLE,
    "ClientConnectorError": _UNREACHABLE,
    "FSTimeoutError": _UNREACHABLE,
}


class Storage:
    """The files below one root.

    url: a local path (relative ones are meant from the working directory), or any fsspec URL.
    purpose: whether failures are those of the input or of the output.

    Pickles as these two strings: the connection is opened where, and when, it is first used.

    Raises InputError or OutputError where the URL holds credentials.
    """

    def __init__(self, url: str, purpose: Purpose = "output") -> None:
        if holds_credentials(url):
            # Nothing of it is repeated, nor handed to a library that would.
            kind = InputError if purpose == "input" else OutputError
            protocol = url.partition("://")[0]
            raise kind(f"the URL {protocol}://*** {HOLDS_CREDENTIALS}")
        self.url = absolute(url)
        self.purpose: Purpose = purpose

    def __reduce__(self) -> tuple[type[Storage], tuple[str, Purpose]]:
        """Two strings; nothing that is open, and no credentials."""
        return (type(self), (self.url, self.purpose))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash((self.url, self.purpose))

    def __repr__(self) -> str:
        return f"Storage({self.display()!r}, {self.purpose!r})"

    @property
    def is_local(self) -> bool:
        """True for the file system of this machine."""
        return "://" not in self.url

    @property
    def exclusive(self) -> bool:
        """False where two writers of one name may both win."""
        return self._files.exclusive

    @property
    def location(self) -> str:
        """One spelling of the root, for comparing places: links resolved, no slash at the end."""
        return self._files.location

    def display(self, path: str = "") -> str:
        """A file's place for messages, without anything secret that a URL may hold."""
        return redacted(f"{self.url.rstrip('/')}/{path}" if path else self.url)

    def exists(self, path: str) -> bool:
        """True if there is a file of that name."""
        return self.stat(path) is not None

    def stat(self, path: str) -> File | None:
        """Size and etag of a file, or None if there is none of that name."""
        with self._translated("read", path):
            return self._files.stat(path)

    def list_files(self, prefix: str = "", *, recursive: bool = True) -> list[File]:
        """The files below a folder, by one listing, sorted by path; [] if it is not there."""
        with self._translated("list", prefix, missing_is_failure=True):
            files = self._files.list_files(prefix.strip("/"), recursive=recursive)
            return sorted(files, key=lambda file: file.path)

    def read_bytes(self, path: str) -> bytes:
        """The whole content of a file. Raises FileNotFoundError."""
        with self._translated("read", path):
            return self._files.read_bytes(path)

    def open_input(self, path: str, size: int | None = None) -> Any:
        """A file for random access by pyarrow, as a context. Raises FileNotFoundError.

        size: bytes, where a listing has told just now; saves a request on remote stores.

        Failures of the store while pyarrow reads are InputError or OutputError too, so that a
        network that fails is never taken for a file that is broken.
        """
        files = self._files
        if isinstance(files, LocalFiles):
            with self._translated("read", path):
                return files.open_input(path)
        if size is None:
            found = self.stat(path)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.display(path))
            size = found.size

        def fetch(start: int, stop: int) -> bytes:
            with self._translated("read", path):
                return files.read_range(path, start, stop)

        return pa.PythonFile(RangeFile(fetch, size), mode="r")

    def create_exclusive(self, path: str, data: bytes) -> None:
        """Write a file that was not there; it appears whole or not at all.

        Raises FileExistsError if there is one of that name, whoever wrote it, and whether before
        or at the same time.
        """
        with self._translated("write", path, missing_is_failure=True):
            self._files.create_exclusive(path, data)

    def replace(self, path: str, data: bytes) -> None:
        """Write a file whether or not it was there. Only for the names that may change."""
        with self._translated("write", path, missing_is_failure=True):
            self._files.replace(path, data)

    def delete(self, path: str) -> None:
        """Take a file away, if it is there. Only for the names that may change."""
        with self._translated("delete", path), suppress(FileNotFoundError):
            self._files.delete(path)

    def give_up_exclusive(self) -> None:
        """Take note that the store let a second writer replace a file; warns, once."""
        self._files.give_up_exclusive()

    def make_folder(self, path: str = "") -> None:
        """Make a folder and those above it, where the store has folders."""
        with self._translated("write", path):
            self._files.make_folder(path)

    @property
    def _files(self) -> LocalFiles | RemoteFiles:
        with self._translated("open", ""):
            return _open(self.url, os.getpid())

    @contextmanager
    def _translated(
        self, action: str, path: str, *, missing_is_failure: bool = False
    ) -> Iterator[None]:
        """Turn the many exceptions of storage libraries into one that names place and remedy."""
        try:
            yield
        except (ShardrankError, FileExistsError):
            raise
        except FileNotFoundError as error:
            if not missing_is_failure:
                raise
            raise self._failure(action, path, error) from error
        except Exception as error:
            raise self._failure(action, path, error) from error

    def _failure(self, action: str, path: str, error: Exception) -> ShardrankError:
        kind: type[ShardrankError] = InputError
        if self.purpose == "output":
            is_full = isinstance(error, OSError) and error.errno in _FULL
            is_full = is_full or http_status(error) == _INSUFFICIENT_STORAGE
            kind = OutputFullError if is_full else OutputError
        return kind(f"cannot {action} {self.display(path)}: {_advice(self.url, error)}")


def absolute(url: str) -> str:
    """A URL as it is, a local path (or file:// URL) as an absolute path."""
    url = re.sub(r"^(?:file|local):(?://(?:localhost(?=/))?|(?=/))", "", url, flags=re.IGNORECASE)
    if "://" in url or "::" in url:
        return url
    return os.path.abspath(os.path.expanduser(url))


def redacted(text: str) -> str:
    """Text without the user, password and query of the URLs in it.

    A password may hold a slash: where a colon stands before an @, all up to the last @ goes.
    """
    text = re.sub(r"(://)\S*:\S*@", r"\1***@", text)
    text = re.sub(r"(://)[^/@\s]*@", r"\1***@", text)
    return re.sub(r"(https?://[^\s?]*)\?[^\s'\"]*", r"\1?***", text)


@functools.lru_cache(maxsize=64)
def _open(url: str, process: int) -> LocalFiles | RemoteFiles:
    """One connection per URL and process: a forked child must not use its parent's."""
    return RemoteFiles(url) if "://" in url else LocalFiles(url)


def _advice(url: str, error: Exception) -> str:
    protocol = url.partition("://")[0]
    if isinstance(error, ImportError):
        if protocol in ("s3", "s3a"):
            return (
                's3fs is not installed; pip install "shardrank[s3]", in a checkout '
                'pip install -e ".[s3]"'
            )
        return f"{protocol}:// needs a package that is not installed ({error})"
    if isinstance(error, ValueError) and "Protocol not known" in str(error):
        return f"{protocol}:// is not a known kind of storage; check the URL"
    for kind in type(error).__mro__:
        if kind.__name__ in _ADVICE_BY_NAME:
            return _ADVICE_BY_NAME[kind.__name__]
    if http_status(error) == _INSUFFICIENT_STORAGE:
        return _ADVICE_BY_ERRNO[errno.ENOSPC]
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket or folder; make it first, or check its name"
    if isinstance(error, PermissionError) and not error.errno:
        return f"access was denied ({redacted(str(error))}); check the credentials and their rights"
    if isinstance(error, OSError) and error.errno in _ADVICE_BY_ERRNO:
        return _ADVICE_BY_ERRNO[error.errno]
    return redacted(f"{type(error).__name__}: {error}")
