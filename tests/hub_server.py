"""A server on this machine that speaks the part of the hub's API that a download needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a1" * 20


@dataclass
class HubServer:
    """One repository at one commit, and what may go wrong with it.

    cut_after: bytes of the first answer for each file after which the connection is cut.
    error: (status, X-Error-Code) for every request about the repository.
    requests: (method, path, Range header) of each request so far.
    """

    id: str
    folder: Path
    cut_after: int | None = None
    error: tuple[int, str] | None = None
    token: str | None = None
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def files(self) -> dict[str, bytes]:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def fetched(self, name: str) -> list[str | None]:
        """The Range headers of the requests for a file."""
        return [
            ranges for method, path, ranges in self.requests if method == "GET" and name in path
        ]

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        yield self
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Range")))
            about = re.fullmatch(rf"/api/models/{hub.id}(?:/revision/(.+))?", path)
            tree = re.fullmatch(rf"/api/models/{hub.id}/tree/{COMMIT}", path)
            resolved = re.fullmatch(rf"/{hub.id}/resolve/{COMMIT}/(.+)", path)
            if not (about or tree or resolved):
                self._fail(404, "RepoNotFound")
            elif hub.error is not None:
                self._fail(*hub.error)
            elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._fail(401, "GatedRepo")
            elif about and about[1] not in (None, "main", "v1", COMMIT):
                self._fail(404, "RevisionNotFound")
            elif about:
                self._json({"id": hub.id, "sha": COMMIT, "siblings": []})
            elif tree:
                self._json([_entry(name, data) for name, data in hub.files().items()])
            elif resolved and resolved[1] in hub.files():
                self._file(hub.files()[resolved[1]])
            else:
                self._fail(404, "EntryNotFound")

        def _fail(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _json(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _file(self, data: bytes) -> None:
            start = int(
                (self.headers.get("Range") or "bytes=0-")[len("bytes=") :].partition("-")[0]
            )
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.cut_after is not None and start == 0 and len(data) > hub.cut_after:
                self.wfile.write(data[: hub.cut_after])
                self.close_connection = True
            else:
                self.wfile.write(data[start:])

    return Handler


def _entry(name: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    return {"type": "file", "path": name, "size": len(data), "oid": oid}
