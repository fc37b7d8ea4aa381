"""Collections in the formats that people have, whole and in pieces."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.errors import InputError
from shardrank.store.chunks import list_chunks, read_all

NAMES = ("_id", "id", "doc_id", "text", "title")


def rows(path: Path, wanted: tuple[str, ...], chunk_bytes: int = 1 << 20) -> list[tuple]:
    chunks = list_chunks(str(path), NAMES, chunk_bytes)
    return list(zip(*read_all(str(path), wanted, chunks).to_pydict().values(), strict=True))


def test_beir_json_lines(tmp_path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "d1", "title": "T", "text": "a", "metadata": {}}\n{"_id": 2}\n')
    assert rows(path, ("_id", "text")) == [("d1", "a"), ("2", None)]


def test_ms_marco_passages_have_no_header(tmp_path) -> None:
    (tmp_path / "collection.tsv").write_text('0\tA "quoted" text\n1\tb\r\n')
    assert rows(tmp_path / "collection.tsv", ("id", "text")) == [
        ("0", 'A "quoted" text'),
        ("1", "b"),
    ]


def test_ms_marco_documents_have_four_columns(tmp_path) -> None:
    (tmp_path / "docs.tsv").write_text("D1\thttp://x\tTitle\tBody\n")
    assert rows(tmp_path / "docs.tsv", ("id", "title", "text")) == [("D1", "Title", "Body")]


def test_a_header_names_the_columns(tmp_path) -> None:
    (tmp_path / "wiki.tsv").write_text("id\ttext\ttitle\n1\ta\tT\n")
    assert rows(tmp_path / "wiki.tsv", ("title", "id")) == [("T", "1")]


def test_parquet_of_any_type_of_id(tmp_path) -> None:
    table = pa.table({"id": [1, 2], "text": pa.array(["a", None]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    assert rows(tmp_path / "a.parquet", ("id", "text")) == [("1", "a"), ("2", None)]


def test_a_folder_is_all_its_files(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"_id": "1", "text": "a"}\n')
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "2", "text": "b"}\n'))
    (tmp_path / "_hidden.jsonl").write_text("no json")
    (tmp_path / "README.md").write_text("no corpus")
    assert rows(tmp_path, ("_id", "text")) == [("1", "a"), ("2", "b")]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30)), st.integers(1, 200))
def test_each_line_is_in_exactly_one_piece(tmp_path_factory, texts, chunk_bytes) -> None:
    path = tmp_path_factory.mktemp("chunks") / "a.jsonl"
    lines = [json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(texts)]
    path.write_text("".join(f"{line}\n" for line in lines))
    if texts:
        expected = [(str(i), text) for i, text in enumerate(texts)]
        assert rows(path, ("_id", "text"), chunk_bytes) == expected


def test_a_file_without_a_last_newline_loses_nothing(tmp_path) -> None:
    (tmp_path / "a.tsv").write_text("1\ta\n2\tb")
    assert rows(tmp_path / "a.tsv", ("id", "text"), 3) == [("1", "a"), ("2", "b")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"_id": "1"}\n{"_id": \n', "byte 13: not a JSON object on one line"),
        ("a.jsonl", b'{"_id": "1"}\n[1]\n', "byte 13: not a JSON object on one line"),
        ("a.json", b"[\n1\n]\n", "does not begin with a JSON object on one line"),
        ("a.tsv", b"1\ta\n2\n", "byte 4: 1 columns between tabs, where the file has 2"),
        ("a.tsv", b"1\ta\n2\t\xff\n", "byte 4: not UTF-8"),
        ("a.tsv", b"1\ta\tb\n", "has 3 columns between tabs and no header"),
        ("a.parquet", b"PAR1 no more", "cannot be read"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.xml", b"<a/>", "the format of .* is not known by its name"),
    ],
)
def test_what_is_broken_is_named_with_its_place(tmp_path, name, content, message) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        rows(tmp_path / name, ("_id" if "json" in name else "id",))


def test_nothing_there_is_said_so(tmp_path) -> None:
    with pytest.raises(InputError, match="there is no file at"):
        list_chunks(str(tmp_path / "absent"), NAMES)
