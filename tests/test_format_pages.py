"""docs/formats.md says what is written: every key and every column, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from documents import PROJECT
from shardrank.schema import PAIR_FIELDS, REJECTED_SCHEMA, ROW_FIELDS
from shardrank.store.filesystem import Storage
from shardrank.store.writer import read_footer
from shardrank.types import Counts
from store.small_job import do_job, nested, parquet

PAGE = (PROJECT / "docs" / "formats.md").read_text()


def tables(heading: str) -> list[list[list[str]]]:
    """The tables under a heading, as rows of cells, without their heads."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    text = next(part for part in section if part.startswith(f"{heading}\n"))
    found = re.findall(r"((?:^\|.*\n)+)", text, re.MULTILINE)
    rows = [[row.strip("|").split("|") for row in table.splitlines()[2:]] for table in found]
    return [[[cell.strip() for cell in row] for row in table] for table in rows]


def keys(heading: str, table: int = 0) -> list[str]:
    return [key for row in tables(heading)[table] for key in re.findall(r"`([^`]+)`", row[0])]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("formats")
    (root / "in").mkdir()
    (root / "in" / "a.parquet").write_bytes(parquet(nested(["one", None], ["two"])))
    (root / "in" / "b.parquet").write_bytes(b"not Parquet")
    do_job(str(root / "in"), Storage(str(root / "out")))
    return root / "out"


def test_columns_are_what_the_page_says() -> None:
    for number, fields in enumerate((PAIR_FIELDS, ROW_FIELDS)):
        said = {row[0].strip("`"): row[1] for row in tables("rows")[number]}
        assert said == {name: str(data_type) for name, data_type in fields.items()}
    said = {row[0].strip("`"): row[1] for row in tables("rejected")[0]}
    assert said == {field.name: str(field.type) for field in REJECTED_SCHEMA}


def test_counts_are_what_the_page_says() -> None:
    assert keys("counts") == list(Counts().as_dict())


def test_files_hold_the_keys_that_the_page_says(output: Path) -> None:
    storage = Storage(str(output))
    (data,) = output.glob("*.parquet")
    assert set(keys("footer")) == set(read_footer(storage, data.name))
    (tombstone,) = (output / "_shardrank" / "failed").glob("*.json")
    for heading, path in (
        ("_SUCCESS", output / "_SUCCESS"),
        ("job.json", output / "_shardrank" / "job.json"),
        ("failed", tombstone),
    ):
        found = [key for row in tables(heading)[0] for key in re.findall(r"`(\w+)`", row[0])]
        assert set(found) == set(json.loads(path.read_text())), heading


def test_codes_are_those_of_the_source() -> None:
    source = "\n".join(path.read_text() for path in (PROJECT / "src").rglob("*.py"))
    for code in [*keys("rejected", 1), *re.findall(r"`(\w+)`", tables("failed")[0][3][1])]:
        assert f'"{code}"' in source
