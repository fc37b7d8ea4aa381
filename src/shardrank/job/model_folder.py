"""From what a user calls a model to a folder on this machine.

A model behind a URL is fetched once per machine into a cache folder named by the sha256 of its
files, verified, and moved into place whole, so that actors that start together share one copy.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
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

    Raises ModelError if there is no prepared model, or if what was fetched differs from what its
    reranker.json says.
    """
    if model == DEMO:
        return builtin_folder()
    storage = Storage(model, "input")
    if storage.is_local:
        return Path(model).expanduser()
    return _fetched(storage, Path(cache_folder or DEFAULT_CACHE).expanduser())


def _fetched(storage: Storage, cache: Path) -> Path:
    try:
        description = storage.read_bytes(FILE_NAME)
    except FileNotFoundError:
        raise ModelError(
            f"{storage.display()} holds no {FILE_NAME}, so it is not a prepared model; make one "
            f"with `shardrank prepare SOURCE --output DIR` and copy the whole folder there."
        ) from None
    folder = cache / hashlib.sha256(description).hexdigest()[:32]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f".{folder.name}.lock").open("w") as lock:
            # One actor of a machine fetches while the others wait for its copy.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _fetch(storage, description, folder)
    except OSError as error:
        raise ModelError(
            f"cannot keep {storage.display()} in {cache}: {error.strerror}; choose another folder "
            f"with model.cache_folder."
        ) from error
    return folder


def _fetch(storage: Storage, description: bytes, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    temporary.mkdir()
    try:
        (temporary / FILE_NAME).write_bytes(description)
        for name in _file_names(description, storage):
            _copy(storage, name, temporary / name)
        PreparedModel.load(temporary).verify(temporary)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(storage: Storage, name: str, target: Path) -> None:
    try:
        with storage.open_input(name) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, _COPY_BYTES)
    except FileNotFoundError:
        raise ModelError(
            f"{storage.display(name)} is listed in {FILE_NAME} and missing; copy the whole folder "
            "of the model there."
        ) from None


def _file_names(description: bytes, storage: Storage) -> list[str]:
    """The plain names that a description lists; the rest of it is checked once all is there."""
    try:
        names = list(json.loads(description)["files"])
    except (ValueError, KeyError, TypeError):
        names = [""]
    if any(Path(str(name)).name != name or name in ("", "..") for name in names):
        raise ModelError(
            f"{storage.display(FILE_NAME)} is not the description of a prepared model; make one "
            f"with `shardrank prepare SOURCE --output DIR`."
        )
    return names
