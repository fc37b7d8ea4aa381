"""What a job leaves for whoever comes after it, without Ray: its units are done by hand."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from shardrank.config import load_config
from shardrank.job.drain import Brake
from shardrank.job.opening import Job
from shardrank.job.parcel import Order
from shardrank.job.rerank import rerank
from shardrank.job.status import Status, render_status, watch_status
from shardrank.job.worker import Scorer, read, write
from shardrank.testing import fake_model
from shardrank.types import Unit
from tables import row, write_nested

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "run-record.md"


def one_row(unit: Unit) -> pa.Table:
    return pa.Table.from_pylist([Order(unit, 1, 3).to_row()])


class ByHand:
    """A job whose units are done when a test says so."""

    def __init__(self, folders, model: Path) -> None:
        write_nested(folders.input / "a.parquet", [row(number) for number in range(6)])
        fake_model(model)
        self.now = 0.0
        self.folders, self.settings = folders, (f"model.path={model}",)
        self.job: Job = folders.open(*self.settings)
        self.pending = list(self.job.plan.units)

    def do_one(self, seconds: float = 0.0) -> None:
        self.now += 10
        spec = self.job.spec(threads=1)
        brake = Brake()
        write(Scorer(spec, brake)(read(one_row(self.pending.pop(0)), spec, brake)), spec)

    def finish(self) -> None:
        while self.pending:
            self.do_one()
        rerank(load_config(None, self.folders.settings(*self.settings)))


@pytest.fixture
def by_hand(folders, tmp_path) -> ByHand:
    return ByHand(folders, tmp_path / "model")


def documented(heading: str) -> set[str]:
    text = DOCUMENT.read_text()
    table = text[text.index(f"| `{heading}` | |") :].split("\n\n")[0]
    first_cells = re.findall(r"^\| ([^|]*) \|", table, flags=re.MULTILINE)[1:]
    return {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}


def test_both_records_hold_exactly_what_is_documented(by_hand) -> None:
    by_hand.finish()
    output = by_hand.folders.output
    success = json.loads((output / "_SUCCESS").read_text())
    report = json.loads((output / "_shardrank" / "report.json").read_text())
    assert set(success) == documented("_SUCCESS")
    assert set(report) == documented("report.json")
    assert (report["finished"], report["exit_code"], report["error"]) == (True, 0, None)
    assert report["output_fingerprint"] == success["output_fingerprint"]


def test_a_job_that_fails_says_with_which_code(folders, tmp_path) -> None:
    fake_model(tmp_path / "model")
    write_nested(folders.input / "a.parquet", [row(1) | {"query": None}, row(2)])
    settings = (f"model.path={tmp_path}/model", "errors.max_rejected_fraction=0")
    job = folders.open(*settings)
    spec = job.spec(threads=1)
    for unit in job.plan.units:
        write(Scorer(spec, Brake())(read(one_row(unit), spec, Brake())), spec)
    with pytest.raises(Exception, match="rejected"):
        folders.run(*settings)
    report = json.loads((folders.output / "_shardrank" / "report.json").read_text())
    assert (report["finished"], report["exit_code"]) == (False, 6)
    assert report["error"] == "TooManyRejectedError"


def test_a_status_tells_of_files_that_are_missing_since(by_hand) -> None:
    by_hand.finish()
    output = by_hand.folders.output
    assert ": finished, 100%" in render_status(next(watch_status(str(output), follow=False)))
    min(output.glob("*.parquet")).unlink()
    found = render_status(next(watch_status(str(output), follow=False)))
    assert "finished, but files are missing since; the same command again makes them" in found
    assert "1 pending" in found


def test_watching_follows_the_store_and_tells_the_pace(by_hand) -> None:
    """Each look is ten seconds after the one before, and one unit is done meanwhile."""
    looks: list[Status] = []
    for status in watch_status(
        str(by_hand.folders.output), follow=True, clock=lambda: by_hand.now, sleep=by_hand.do_one
    ):
        looks.append(status)
        if not status.pending:
            break
    assert [status.done for status in looks] == [0, 1, 2, 3]
    assert [status.pairs_per_second for status in looks[:2]] == [None, pytest.approx(0.8)]
    assert looks[1].seconds_left == pytest.approx(16 / 0.8)
    assert "0.8 pairs/s since the first look, 20s left" in render_status(looks[1])
