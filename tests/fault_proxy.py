"""An HTTP proxy between s3fs and an S3 server that spoils some of the answers."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Spoiling = Literal[
    "500", "503", "409", "507", "403",
    "timeout", "reset", "reset_after", "slow", "truncated", "stale",
]  # fmt: skip
"""reset_after: the request was done, and its answer lost. 409: only for a conditional put; 507 (no
space) and 403 (read-only): only for a put. timeout: no answer until the client gave up. stale: the
listing before the last write, only for a listing."""

SLOW_SECONDS = 0.2
HANG_SECONDS = 16.0
"""More than s3fs waits for an answer."""
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>told to</Message>'
    "</Error>"
)
_CODES = {
    "500": "InternalError",
    "503": "ServiceUnavailable",
    "409": "ConditionalRequestConflict",
    "507": "InsufficientStorage",
    "403": "AccessDenied",
}
_NOT_PASSED_ON = {"connection", "transfer-encoding", "content-length", "expect", "date", "server"}


class FaultProxy:
    """What befalls requests.

    seed, share, kinds: a share of all requests, drawn at random.
    num_met: how often each kind befell one, as (method, kind). num_requests: of the times in which
        the share was not 0.
    """

    def __init__(self, target: str, seed: int = 0, share: float = 0.0, kinds: Sequence[str] = ()):
        self.target = urlsplit(target)
        self.share = share
        self.kinds = list(kinds)
        self.num_met: Counter[tuple[str, str]] = Counter()
        self.num_requests = 0
        self._random = random.Random(seed)
        self._scripts: dict[str, deque[str | None]] = {}
        self._listings: dict[str, tuple[bytes, bytes]] = {}
        self._lock = threading.Lock()

    def script(self, method: str, *kinds: str | None) -> None:
        """What the next requests of a method meet; None for those that pass."""
        self._scripts[method] = deque(kinds)

    def draw(self, method: str, path: str, conditional: bool) -> str | None:
        with self._lock:
            self.num_requests += self.share > 0
            script = self._scripts.get(method)
            fits = {
                "409": conditional,
                "507": method == "PUT",
                "403": method == "PUT",
                "stale": is_listing(method, path),
            }
            kind = script.popleft() if script else None
            if kind is None and not script and self._random.random() < self.share:
                kind = self._random.choice([kind for kind in self.kinds if fits.get(kind, True)])
            if kind is not None and not fits.get(kind, True):
                kind = None
            if kind is not None:
                self.num_met[method, kind] += 1
            return kind

    def listing(self, path: str, now: bytes, *, stale: bool) -> bytes:
        """The listing, or the last one of this path that was different."""
        with self._lock:
            last, before = self._listings.get(path, (now, now))
            if _entries(last) != _entries(now):
                last, before = now, last
            self._listings[path] = (last, before)
            return before if stale else now


def is_listing(method: str, path: str) -> bool:
    """Whether a request asks what is in a bucket."""
    return method == "GET" and "list-type=2" in path


def _entries(listing: bytes) -> list[bytes]:
    return re.findall(rb"<Key>.*?</Key>", listing)


@contextmanager
def fault_proxy(proxy: FaultProxy) -> Iterator[str]:
    """The proxy's URL, for AWS_ENDPOINT_URL."""
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Nothing: clients that were killed hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def handle_any(self) -> None:
        kind = self.proxy.draw(self.command, self.path, "If-None-Match" in self.headers)
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if kind == "timeout":
            time.sleep(HANG_SECONDS)
        if kind in ("reset", "timeout"):
            self._reset()
        elif kind in _CODES:
            self._answer(int(kind), [], _ERROR.format(code=_CODES[kind]).encode())
        else:
            if kind == "slow":
                time.sleep(SLOW_SECONDS)
            status, headers, data = self._forward(body)
            if status == 200 and is_listing(self.command, self.path):
                data = self.proxy.listing(self.path, data, stale=kind == "stale")
            if kind == "reset_after":
                self._reset()
            else:
                self._answer(status, headers, data, cut=kind == "truncated" and len(data) > 1)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        target = HTTPConnection(self.proxy.target.hostname, self.proxy.target.port, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_PASSED_ON}
        target.request(self.command, self.path, body or None, headers)
        answer = target.getresponse()
        data = answer.read()
        target.close()
        return answer.status, answer.getheaders(), data

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False
    ) -> None:
        length = str(len(data))
        self.send_response(status)
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in _NOT_PASSED_ON:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        """Close with RST, as a machine that went away."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True
        self.wfile = self.rfile = _Nowhere()


class _Nowhere:
    closed = False

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def write(self, _: bytes) -> int:
        return 0

    def readline(self, *_: int) -> bytes:
        return b""
