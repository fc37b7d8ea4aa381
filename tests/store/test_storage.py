"""Storage keeps the same promises on every store."""

import logging
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from shardrank.errors import InputError, OutputError
from shardrank.store.filesystem import Storage, redacted
from shardrank.store.local import LocalFiles


def test_what_was_created_is_read_back(storage: Storage) -> None:
    storage.create_exclusive("folder/name", b"content")
    assert storage.read_bytes("folder/name") == b"content"
    assert storage.exists("folder/name")
    assert not storage.exists("folder")


def test_an_empty_file_is_created_exclusively_too(storage: Storage) -> None:
    storage.create_exclusive("name", b"")
    with pytest.raises(FileExistsError):
        storage.create_exclusive("name", b"other")


def test_the_second_writer_of_a_name_changes_nothing(storage: Storage) -> None:
    storage.create_exclusive("name", b"first")
    with pytest.raises(FileExistsError):
        storage.create_exclusive("name", b"second")
    assert storage.read_bytes("name") == b"first"


def test_of_many_threads_one_wins(storage: Storage) -> None:
    def attempt(writer: int) -> bool:
        try:
            storage.create_exclusive(f"race-{writer // 8}", str(writer).encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        wins = list(threads.map(attempt, range(80)))
    for race in range(10):
        winners = [writer for writer in range(race * 8, race * 8 + 8) if wins[writer]]
        assert [str(winner).encode() for winner in winners] == [storage.read_bytes(f"race-{race}")]


def test_of_many_processes_one_wins(tmp_path: Path) -> None:
    program = """
import sys
from shardrank.store.local import LocalFiles
files = LocalFiles(sys.argv[1])
for race in range(100):
    try:
        files.create_exclusive(f"race-{race}", sys.argv[2].encode() * 1000)
        print(race)
    except FileExistsError:
        pass
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(writer)], stdout=subprocess.PIPE
        )
        for writer in range(3)
    ]
    wins = [line for process in processes for line in process.communicate()[0].split()]
    assert sorted(map(int, wins)) == list(range(100))
    assert len(list(tmp_path.iterdir())) == 100


def test_replace_changes_what_is_there(storage: Storage) -> None:
    storage.replace("folder/report", b"old")
    storage.replace("folder/report", b"new")
    assert storage.read_bytes("folder/report") == b"new"


def test_a_listing_shows_sizes_and_sorted_relative_paths(storage: Storage) -> None:
    for path in ("b", "folder/c", "a"):
        storage.create_exclusive(path, b"four")
    files = storage.list_files()
    assert [file.path for file in files] == ["a", "b", "folder/c"]
    assert {file.size for file in files} == {4}
    assert files[0] == storage.stat("a")


def test_a_listing_can_stay_in_one_folder(storage: Storage) -> None:
    for path in ("a", "folder/b", "folder/deep/c"):
        storage.create_exclusive(path, b"")
    assert [file.path for file in storage.list_files(recursive=False)] == ["a"]
    assert [file.path for file in storage.list_files("folder", recursive=False)] == ["folder/b"]
    assert [file.path for file in storage.list_files("folder")] == ["folder/b", "folder/deep/c"]


def test_a_listing_sees_what_another_connection_wrote(storage: Storage) -> None:
    assert storage.list_files() == []
    pickle.loads(pickle.dumps(storage)).create_exclusive("new", b"")
    assert [file.path for file in storage.list_files()] == ["new"]


def test_a_folder_that_is_not_there_is_empty(storage: Storage) -> None:
    assert storage.list_files("nowhere", recursive=False) == []
    assert storage.stat("nowhere") is None


def test_the_etag_changes_with_the_content(storage: Storage) -> None:
    storage.replace("name", b"one")
    before = storage.stat("name")
    storage.replace("name", b"two")
    assert storage.stat("name") != before


def test_reading_what_is_not_there_is_file_not_found(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("nowhere")
    with pytest.raises(FileNotFoundError):
        storage.open_input("nowhere")


def test_pyarrow_reads_any_part_of_a_file(storage: Storage) -> None:
    storage.create_exclusive("name", bytes(range(100)))
    with storage.open_input("name") as source:
        assert source.size() == 100
        source.seek(90)
        assert source.read(5) == bytes(range(90, 95))
        assert source.read() == bytes(range(95, 100))


def test_pickled_storage_is_a_url(storage: Storage) -> None:
    storage.list_files()
    assert len(pickle.dumps(storage)) < 500


def test_a_relative_path_is_meant_from_where_the_job_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("data")
    monkeypatch.chdir("/")
    assert storage.url == str(tmp_path / "data")


def test_a_local_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        Storage(str(tmp_path)).create_exclusive("name", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o640


def test_a_failed_local_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match="no space is left"):
        Storage(str(tmp_path)).create_exclusive("name", b"content")
    assert list(tmp_path.iterdir()) == []


def test_without_hard_links_the_promise_is_weaker_and_said_aloud_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    files = LocalFiles(str(tmp_path))
    files.create_exclusive("one", b"1")
    files.create_exclusive("two", b"2")
    with pytest.raises(FileExistsError):
        files.create_exclusive("one", b"other")
    assert not files.exclusive
    assert (tmp_path / "one").read_bytes() == b"1"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_link_that_leads_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "gone.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=str(tmp_path)):
        Storage(str(tmp_path), "input").list_files()


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path)
    with pytest.raises(InputError, match="circle"):
        Storage(str(tmp_path), "input").list_files()


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a file where a folder is needed"):
        Storage(str(tmp_path / "file")).create_exclusive("name", b"")


def test_writers_that_need_the_same_new_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    for number in range(50):
        files = LocalFiles(str(tmp_path / str(number)))
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _, made=files: made.make_folder("a/b/c"), range(8)))


def test_a_missing_bucket_is_named(s3_bucket: str) -> None:
    with pytest.raises(InputError, match="s3://no-such-bucket/data: there is no such bucket"):
        Storage("s3://no-such-bucket/data", "input").list_files()
    with pytest.raises(OutputError, match="no such bucket"):
        Storage("s3://no-such-bucket/data").create_exclusive("name", b"")


@pytest.mark.usefixtures("new_connection")
def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(OutputError, match="no credentials were found"):
        Storage("s3://shards/without-credentials").list_files()


@pytest.mark.usefixtures("new_connection")
def test_an_endpoint_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="AWS_ENDPOINT_URL"):
        Storage("s3://shards/no-endpoint", "input").list_files()


@pytest.mark.slow
def test_a_large_object_is_created_exclusively_in_parts(s3_bucket: str) -> None:
    storage = Storage(f"{s3_bucket}/large")
    data = b"x" * (101 << 20)
    storage.create_exclusive("name", data)
    with pytest.raises(FileExistsError):
        storage.create_exclusive("name", data)


@pytest.mark.usefixtures("new_connection")
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(OutputError, match=r'pip install "shardrank\[s3\]"'):
        Storage("s3://bucket/without-s3fs").list_files()


def test_an_unknown_kind_of_url_is_named() -> None:
    with pytest.raises(InputError, match="s4:// is not a known kind of storage"):
        Storage("s4://bucket", "input").list_files()


def test_secrets_of_a_url_are_not_shown() -> None:
    url = "https://host/data?X-Amz-Signature=secret"
    assert "secret" not in Storage(url).display()
    assert "secret" not in redacted(f"cannot open {url}")
    assert "secret" not in repr(Storage(url))


SECRET_URLS = pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:abc/secret@bucket/x",
        "s3://AKIA:secret/@bucket",
        "s3://AKIA:a@b/secret@bucket/x",
        "s3://AK@IA:a/secret@bucket/x",
        "simplecache::s3://AKIA:abc/secret@bucket/x",
        "https://secret@host/x",
    ],
)


@SECRET_URLS
@pytest.mark.parametrize("purpose", ["input", "output"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str, purpose: Any) -> None:
    with pytest.raises((InputError, OutputError), match="holds credentials") as error:
        Storage(url, purpose)
    assert "secret" not in str(error.value)
    assert "AK" not in str(error.value)


@SECRET_URLS
def test_a_secret_that_holds_a_slash_is_not_shown(url: str) -> None:
    shown = redacted(f"cannot open {url} now")
    assert "secret" not in shown
    assert shown.endswith(" now")


def test_a_url_without_a_secret_is_shown_whole() -> None:
    for url in ("s3://bucket/a@b/x.parquet", "https://host:9000/x", "/data/a:b@c.parquet"):
        assert redacted(url) == url


def test_failures_of_the_store_keep_their_kind_through_pyarrow(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"{s3_bucket}/fails", "input")
    storage.create_exclusive("name", bytes(100))
    with storage.open_input("name") as source:
        monkeypatch.setattr(
            type(storage._files),
            "read_range",
            lambda *_: (_ for _ in ()).throw(TimeoutError("slow")),
        )
        with pytest.raises(InputError, match="slow"):
            pa.ipc.open_stream(source)
