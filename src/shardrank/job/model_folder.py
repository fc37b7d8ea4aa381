"""From what a user calls a model to a folder on this machine.

A model behind a URL is fetched once per machine into a cache folder named by the sha256 of its
reranker.json, which holds the sha256 of every other file. It is verified while it is fetched and
moved into place whole, so that actors that start together share one copy.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from shardrank.engine.model import FILE_NAME, PreparedModel, builtin_folder
from shardrank.engine.reranker import DEMO
from shardrank.errors import ModelError
from shardrank.store.filesystem import Storage

DEFAULT_CACHE = Path("~/.cache/shardrank/models")

_COPY_BYTES = 16 << 20


def local_folder(model: str, cache_folder: str | None = None) -> Path:
    """The folder of a prepared model: the built-in one, a local path, or a fetched copy of a URL.

    A copy that is there already is not hashed again: that is `verified_folder`.

    Raises ModelError if there is no prepared model, or if what was fetched differs from what its
    reranker.json says, and InputError if the store cannot be read.
    """
    return _find(model, cache_folder, verify=False)


def model_location(model: str) -> str:
    """What a user calls a model, in a form that means the same in another working directory."""
    return model if model == DEMO else Storage(model, "input").url


def verified_folder(model: str, cache_folder: str | None = None) -> Path:
    """The same with every file hashed: some seconds for a large model, once per scoring process.

    A cached copy that was damaged is fetched again. Raises ModelError if another folder was
    changed after its reranker.json was written, and as `local_folder` does.
    """
    return _find(model, cache_folder, verify=True)


def _find(model: str, cache_folder: str | None, *, verify: bool) -> Path:
    storage = Storage(model, "input")
    if model != DEMO and not storage.is_local:
        cache = Path(cache_folder or DEFAULT_CACHE).expanduser()
        return _fetched(storage, cache, verify=verify)
    folder = builtin_folder() if model == DEMO else Path(storage.url)
    if verify:
        PreparedModel.load(folder).verify(folder)
    return folder


def _fetched(storage: Storage, cache: Path, *, verify: bool) -> Path:
    try:
        description = storage.read_bytes(FILE_NAME)
    except FileNotFoundError:
        raise ModelError(
            f"{storage.display()} holds no {FILE_NAME}, so it is not a prepared model; make one "
            f"with `shardrank prepare SOURCE --output DIR` and copy the whole folder there."
        ) from None
    digests = _digests(description, storage)
    folder = cache / hashlib.sha256(description).hexdigest()[:32]
    # Nobody holds the lock for a copy that is sound, so that actors hash side by side.
    if folder.is_dir() and not (verify and _damage(folder)):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{folder.name}.lock"):
            if folder.is_dir() and _damage(folder):
                # Moved first: another process may have it open, and a half-deleted copy is none.
                folder.rename(cache / f".{folder.name}.{uuid4().hex}")
            if not folder.is_dir():
                _fetch(storage, description, digests, folder)
    except OSError as error:
        raise ModelError(
            f"cannot keep {storage.display()} in {cache}: {error.strerror}; choose another folder "
            f"with model.cache_folder."
        ) from error
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of a machine at a time; the system frees the lock of one that dies."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _damage(folder: Path) -> ModelError | None:
    try:
        PreparedModel.load(folder).verify(folder)
    except ModelError as error:
        return error
    return None


def _fetch(storage: Storage, description: bytes, digests: dict[str, str], folder: Path) -> None:
    """Put a whole, verified copy at `folder`, or leave nothing; the caller holds the lock."""
    for remains in folder.parent.glob(f".{folder.name}.*"):
        # Of a process that was killed while it fetched; whoever lives waits for the lock.
        if remains.is_dir():
            shutil.rmtree(remains, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    temporary.mkdir()
    try:
        (temporary / FILE_NAME).write_bytes(description)
        for name, digest in digests.items():
            _copy(storage, name, temporary / name, digest)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(storage: Storage, name: str, target: Path, digest: str) -> None:
    found = hashlib.sha256()
    try:
        with storage.open_input(name) as source, target.open("wb") as file:
            while block := source.read(_COPY_BYTES):
                found.update(block)
                file.write(block)
    except FileNotFoundError:
        raise ModelError(
            f"{storage.display(name)} is listed in {FILE_NAME} and missing; copy the whole folder "
            "of the model there."
        ) from None
    if found.hexdigest() != digest:
        raise ModelError(
            f"{storage.display(name)} is not the file that {FILE_NAME} beside it describes (sha256 "
            f"differs); copy the whole folder of the model there again."
        )


def _digests(description: bytes, storage: Storage) -> dict[str, str]:
    """The sha256 of each file by its plain name; the rest is checked when the model is loaded."""
    try:
        digests = {
            str(name): str(value) for name, value in json.loads(description)["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        digests = {"": ""}
    if any(Path(name).name != name or name in ("", "..") for name in digests):
        raise ModelError(
            f"{storage.display(FILE_NAME)} is not the description of a prepared model; make one "
            f"with `shardrank prepare SOURCE --output DIR`."
        )
    return digests
