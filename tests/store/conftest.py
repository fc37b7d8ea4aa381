"""Storages to test with: a folder, memory, and a real S3 server on this machine."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from shardrank.store.filesystem import Storage
from shardrank.store.remote import s3_connection


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """The URL of a bucket on a server of this session."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("shards")
        yield "s3://shards"
    server.stop()
    s3_connection.cache_clear()


@pytest.fixture
def new_connection(s3_bucket: str) -> Iterator[None]:
    """A connection to S3 that is made in this test, by its environment, and for it alone."""
    s3_connection.cache_clear()
    yield
    s3_connection.cache_clear()


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty output on each kind of store."""
    if request.param == "local":
        return Storage(str(tmp_path / "output"))
    if request.param == "memory":
        return Storage(f"memory://{uuid4().hex}")
    return Storage(f"{request.getfixturevalue('s3_bucket')}/{uuid4().hex}")


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    """An output folder that is not there yet."""
    return Storage(str(tmp_path / "output"))
