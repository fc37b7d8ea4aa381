"""Which files of an input are its shards, and how their units are called."""

from pathlib import Path

import pytest

from shardrank.errors import InputError
from shardrank.store.filesystem import Storage
from shardrank.store.units import hive_values, list_shards, output_name
from shardrank.types import Shard, Unit


def make(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")


def found(path: object, output: Storage | None = None) -> list[str]:
    return [shard.path for shard in list_shards(str(path), output)[1]]


def test_a_folder_means_all_its_parquet_files_in_order(tmp_path: Path) -> None:
    make(tmp_path, "b.parquet", "a.parquet", "deep/er/c.PARQUET", "d.pq", "e.parq")
    assert found(tmp_path) == ["a.parquet", "b.parquet", "d.pq", "deep/er/c.PARQUET", "e.parq"]


def test_hidden_names_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.parquet", "_SUCCESS", "_x.parquet", ".x.parquet", "_old/b.parquet")
    assert found(tmp_path) == ["a.parquet"]


def test_a_partition_folder_is_not_hidden_by_its_first_letter(tmp_path: Path) -> None:
    make(tmp_path, "_lang=en/a.parquet")
    assert found(tmp_path) == ["_lang=en/a.parquet"]


def test_files_of_another_suffix_are_left_out_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "a.parquet", "notes.txt", "data.csv", ".hidden")
    assert found(tmp_path) == ["a.parquet"]
    assert "2 files of" in caplog.text
    assert "are left out, since they do not end in" in caplog.text
    (tmp_path / "data.csv").unlink()
    found(tmp_path)
    assert "1 file of" in caplog.text
    assert "is left out, since it does not end in" in caplog.text


def test_one_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    make(tmp_path, "_data.bin", "other.parquet")
    assert found(tmp_path / "_data.bin") == ["_data.bin"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.parquet", ["a1.parquet", "a2.parquet"]),
        ("a?.parquet", ["a1.parquet", "a2.parquet"]),
        ("a[2-9].parquet", ["a2.parquet"]),
        ("a[!2].parquet", ["a1.parquet"]),
        ("**/*.parquet", ["a1.parquet", "a2.parquet", "x/b.parquet", "x/y/c.parquet"]),
        ("x/**", ["x/b.parquet", "x/data.bin", "x/y/c.parquet"]),
        ("*/b.parquet", ["x/b.parquet"]),
        ("x/*.bin", ["data.bin"]),
        ("[xz]", ["x/b.parquet", "x/y/c.parquet"]),
    ],
)
def test_a_glob_takes_what_it_matches(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    make(tmp_path, "a1.parquet", "a2.parquet", "x/b.parquet", "x/y/c.parquet", "x/data.bin")
    root = tmp_path / pattern
    names = [path.removeprefix("x/") if pattern.startswith("x/") else path for path in expected]
    assert found(root) == names


def test_a_name_that_holds_wildcards_is_still_a_file(tmp_path: Path) -> None:
    make(tmp_path, "a[1].parquet", "a1.parquet")
    assert found(tmp_path / "a[1].parquet") == ["a[1].parquet"]


def test_a_folder_whose_name_holds_wildcards_is_still_a_folder(storage: Storage) -> None:
    for path in ("in[1]/a[2].parquet", "in[1]/b.parquet", "in1/c.parquet", "in2/d.parquet"):
        storage.create_exclusive(path, b"x")
    assert found(f"{storage.url}/in[1]") == ["a[2].parquet", "b.parquet"]
    assert found(f"{storage.url}/in[1]/b*") == ["b.parquet"]
    assert found(f"{storage.url}/in[1]/a[2].parquet") == ["a[2].parquet"]
    assert found(f"{storage.url}/in[2]") == ["in2/d.parquet"]


def test_an_empty_folder_whose_name_holds_wildcards_is_not_taken_for_a_glob(tmp_path: Path) -> None:
    make(tmp_path, "in1/a.parquet")
    (tmp_path / "in[1]").mkdir()
    with pytest.raises(InputError, match="no input at"):
        found(tmp_path / "in[1]")


@pytest.mark.parametrize("glob", ["[z-a].parquet", "x[b-a]*/*.parquet"])
def test_a_glob_that_cannot_be_read_is_named(tmp_path: Path, glob: str) -> None:
    make(tmp_path, "a.parquet")
    with pytest.raises(InputError, match="cannot be read: bad character range"):
        found(tmp_path / glob)


@pytest.mark.parametrize("prefix", ["file://", "file:", "FILE://", "file://localhost", "local://"])
def test_the_url_of_a_local_file_is_its_path(tmp_path: Path, prefix: str) -> None:
    make(tmp_path, "data/a.parquet")
    for path in ("data", "data/*.parquet", "data/a.parquet"):
        assert found(f"{prefix}{tmp_path}/{path}") == ["a.parquet"]
    with pytest.raises(InputError, match="lies inside the input"):
        found(tmp_path / "data", Storage(f"{prefix}{tmp_path}/data/out"))


def test_the_same_shards_are_found_on_every_store(storage: Storage) -> None:
    for path in ("b.parquet", "lang=en/a.parquet", "_SUCCESS"):
        storage.create_exclusive(path, b"x")
    assert found(storage.url) == ["b.parquet", "lang=en/a.parquet"]
    assert found(f"{storage.url}/b.parquet") == ["b.parquet"]
    assert found(f"{storage.url}/*.parquet") == ["b.parquet"]


def test_partition_values_come_from_the_folders() -> None:
    path = "lang=zh%2FHans/day=__HIVE_DEFAULT_PARTITION__/empty=/a=b.parquet"
    assert hive_values(path) == (("lang", "zh/Hans"), ("day", None), ("empty", ""))


def test_a_partition_column_that_comes_twice_is_refused() -> None:
    with pytest.raises(InputError, match="'lang' twice"):
        hive_values("lang=en/lang=zh/a.parquet")


@pytest.mark.parametrize("path", ["k=%FF/a.parquet", "%FE=v/a.parquet", "k=%C3/a.parquet"])
def test_partitions_that_are_not_text_are_refused_and_not_mixed(path: str) -> None:
    with pytest.raises(InputError, match="escaped bytes that are not UTF-8"):
        hive_values(path)


@pytest.mark.parametrize("path", ["missing", "empty", "missing/*.parquet", "text"])
def test_an_input_without_shards_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    make(tmp_path, "text/notes.txt")
    with pytest.raises(InputError, match="no input at"):
        list_shards(str(tmp_path / path))


@pytest.mark.parametrize("path", ["", "deep/output"])
def test_an_output_inside_the_input_is_refused(tmp_path: Path, path: str) -> None:
    make(tmp_path, "a.parquet")
    with pytest.raises(InputError, match="lies inside the input"):
        list_shards(str(tmp_path), Storage(str(tmp_path / path)))


def test_a_link_does_not_hide_that_the_output_is_inside(tmp_path: Path) -> None:
    make(tmp_path, "data/a.parquet")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(InputError, match="lies inside the input"):
        list_shards(str(tmp_path / "data"), Storage(str(tmp_path / "link/output")))


def test_an_input_inside_the_output_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "output/data/a.parquet")
    with pytest.raises(InputError, match="lies inside the output"):
        list_shards(str(tmp_path / "output/data"), Storage(str(tmp_path / "output")))


def test_an_output_beside_or_hidden_from_the_input_is_fine(tmp_path: Path) -> None:
    make(tmp_path, "data/a.parquet")
    for output in ("data-out", "data/_out"):
        assert found(tmp_path / "data", Storage(str(tmp_path / output))) == ["a.parquet"]
    for name in ("data/*.parquet", "data/a.parquet"):
        assert found(tmp_path / name, Storage(str(tmp_path / "data/out"))) == ["a.parquet"]


def named(path: str, number: int = 7) -> str:
    return output_name(Unit(number, Shard(path, 1, "", None), 0, None, None))


def test_a_data_file_is_named_after_shard_path_and_unit() -> None:
    assert named("lang=en/part-0.parquet") == "part-0-9527d435-000007.parquet"


def test_shards_of_one_name_in_two_folders_have_different_data_files() -> None:
    assert named("x/a.parquet") != named("y/a.parquet")


@pytest.mark.parametrize(
    "path", ["_a.parquet", "..parquet", "日本.parquet", "a b*?/.pq", "x" * 300]
)
def test_names_of_data_files_are_plain(path: str) -> None:
    name = named(path)
    assert name[0] not in "_."
    assert len(name) <= 120
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in name)


def test_a_name_that_cannot_be_printed_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "a\n.parquet")
    with pytest.raises(InputError, match="cannot be printed"):
        list_shards(str(tmp_path))
