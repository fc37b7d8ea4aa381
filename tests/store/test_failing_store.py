"""Whatever a store does, it ends as what was asked for, or as one error that says what to do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_proxy import FaultProxy, fault_proxy
from shardrank.errors import InputError, OutputError, OutputFullError
from shardrank.store.filesystem import Storage
from shardrank.store.remote import s3_connection
from shardrank.testing import FaultKind, Faults, ProcessDied, failing_store


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture(params=["memory", "local"])
def failing(request: pytest.FixtureRequest, faults: Faults, tmp_path: Path) -> Iterator[Storage]:
    place = str(tmp_path) if request.param == "local" else None
    with failing_store(faults, place) as url:
        yield Storage(url)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("error_500", "the store answered 500"),
        ("error_503", "the store answered 503"),
        ("timeout", "did not answer in time"),
        ("reset", "the connection was reset"),
        ("no_space", "no space is left; free some"),
        ("read_only", "the file system is read-only; choose another"),
    ],
)
def test_a_write_that_failed_left_nothing_and_says_why(
    failing: Storage, faults: Faults, kind: FaultKind, message: str
) -> None:
    faults.script("create", kind)
    with pytest.raises(OutputError, match=message):
        failing.create_exclusive("folder/name", b"data")
    assert failing.list_files() == []
    failing.create_exclusive("folder/name", b"data")
    assert failing.read_bytes("folder/name") == b"data"


def test_a_conflict_of_two_conditional_puts_is_tried_again(
    failing: Storage, faults: Faults
) -> None:
    faults.script("create", "conflict", "conflict")
    failing.create_exclusive("name", b"data")
    assert failing.read_bytes("name") == b"data"
    assert faults.num_met == {"conflict": 2}


@pytest.mark.slow
def test_a_conflict_that_does_not_end_is_an_error() -> None:
    faults = Faults.scripted("create", *["conflict"] * 6)
    with failing_store(faults) as url, pytest.raises(OutputError, match="409"):
        Storage(url).create_exclusive("name", b"data")


def test_an_answer_that_was_lost_is_an_error_though_the_file_is_there(
    failing: Storage, faults: Faults
) -> None:
    faults.script("create", "applied_then_lost")
    with pytest.raises(OutputError, match="the answer was lost"):
        failing.create_exclusive("name", b"data")
    with pytest.raises(FileExistsError):
        failing.create_exclusive("name", b"data")


def test_a_read_that_was_cut_short_is_not_taken_for_the_file(
    failing: Storage, faults: Faults
) -> None:
    failing.create_exclusive("name", bytes(100))
    faults.script("read", "truncated_read", "truncated_read")
    with pytest.raises(OutputError, match="the store gave 50 of 100 bytes"):
        failing.read_bytes("name")
    with failing.open_input("name") as source, pytest.raises(OutputError, match="25 of 50"):
        source.read(50)


def test_a_listing_may_be_older_than_the_last_write(failing: Storage, faults: Faults) -> None:
    failing.create_exclusive("a", b"")
    assert [file.path for file in failing.list_files()] == ["a"]
    failing.create_exclusive("b", b"")
    faults.script("list", "stale_listing")
    assert [file.path for file in failing.list_files()] == ["a"]
    assert [file.path for file in failing.list_files()] == ["a", "b"]


def test_a_process_can_die_before_or_after_its_write(failing: Storage, faults: Faults) -> None:
    faults.script("create", "dies_before", "dies_after")
    for name in ("before", "after"):
        with pytest.raises(ProcessDied):
            failing.create_exclusive(name, b"")
    assert [file.path for file in failing.list_files()] == ["after"]


def test_the_write_of_a_dead_process_may_land_late(faults: Faults) -> None:
    with failing_store(faults) as url:
        storage = Storage(url)
        faults.script("create", "lands_late", "lands_late")
        for data in (b"first", b"second"):
            with pytest.raises(ProcessDied):
                storage.create_exclusive("name", data)
        assert not storage.exists("name")
        assert url.land() == 1
        assert storage.read_bytes("name") == b"first"


def test_faults_of_one_seed_are_the_same_again() -> None:
    def met(seed: int) -> list[str | None]:
        faults = Faults(seed, share=0.3, kinds=["reset", "conflict", "slow"])
        return [faults.draw(operation) for operation in ("create", "read", "list") * 20]

    assert met(1) == met(1) != met(2)


def test_a_script_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="explodes"):
        Faults.scripted("read", "explodes")  # type: ignore[arg-type]


@pytest.fixture
def proxy(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy between this test's own connection and the S3 server."""
    proxy = FaultProxy(os.environ["AWS_ENDPOINT_URL"])
    with fault_proxy(proxy) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        s3_connection.cache_clear()
        yield proxy
    s3_connection.cache_clear()


@pytest.mark.parametrize("kind", ["500", "503", "409", "reset", "slow"])
def test_s3_that_fails_once_is_asked_again(proxy: FaultProxy, s3_bucket: str, kind: str) -> None:
    storage = Storage(f"{s3_bucket}/once-{kind}", "input")
    proxy.script("PUT", kind)
    storage.create_exclusive("name", b"data")
    proxy.script("GET", kind)
    assert storage.read_bytes("name") == b"data"
    assert proxy.num_met["PUT", kind] == 1


def test_an_s3_put_that_lost_its_answer_finds_its_own_file(
    proxy: FaultProxy, s3_bucket: str
) -> None:
    """The library asks again by itself, and the condition then fails: the caller must compare."""
    storage = Storage(f"{s3_bucket}/lost")
    proxy.script("PUT", "reset_after")
    with pytest.raises(FileExistsError):
        storage.create_exclusive("name", b"data")
    assert storage.read_bytes("name") == b"data"


def test_an_s3_body_that_was_cut_short_is_read_again(proxy: FaultProxy, s3_bucket: str) -> None:
    storage = Storage(f"{s3_bucket}/cut")
    storage.create_exclusive("name", bytes(100_000))
    proxy.script("GET", "truncated")
    assert storage.read_bytes("name") == bytes(100_000)
    assert proxy.num_met["GET", "truncated"] == 1


def test_s3_that_takes_no_more_says_so(proxy: FaultProxy, s3_bucket: str) -> None:
    storage = Storage(f"{s3_bucket}/full")
    proxy.script("PUT", "507")
    with pytest.raises(OutputFullError, match="no space is left"):
        storage.create_exclusive("name", b"data")
    storage.create_exclusive("name", b"data")
    proxy.script("PUT", "403")
    with pytest.raises(OutputError, match="access was denied"):
        storage.create_exclusive("other", b"data")


def test_a_listing_of_s3_may_be_older_than_the_last_write(
    proxy: FaultProxy, s3_bucket: str
) -> None:
    storage = Storage(f"{s3_bucket}/stale")
    for name in "ab":
        storage.create_exclusive(name, b"data")
        assert storage.list_files()[-1].path == name
    proxy.script("GET", "stale")
    assert [file.path for file in storage.list_files()] == ["a"]
    assert [file.path for file in storage.list_files()] == ["a", "b"]


@pytest.mark.slow
def test_s3_that_hangs_is_asked_again(proxy: FaultProxy, s3_bucket: str) -> None:
    storage = Storage(f"{s3_bucket}/hangs")
    proxy.script("PUT", "timeout")
    storage.create_exclusive("name", b"data")
    assert proxy.num_met["PUT", "timeout"] == 1


@pytest.mark.slow
def test_s3_that_fails_for_long_is_one_error(proxy: FaultProxy, s3_bucket: str) -> None:
    storage = Storage(f"{s3_bucket}/long", "input")
    proxy.script("GET", *["503"] * 50)
    with pytest.raises(InputError, match=f"{s3_bucket}/long"):
        storage.read_bytes("name")
