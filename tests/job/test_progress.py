import io

from shardrank.job.progress import Progress, Standing, duration, render
from shardrank.job.watch import Watch
from shardrank.types import Counts, Receipt
from tables import row, write_nested


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def receipt(pairs: int, outcome: str = "committed", unit: int = 0) -> Receipt:
    counts = Counts(rows_in=1, rows_out=1, pairs_in=pairs, pairs_out=pairs, tokens=pairs * 100)
    return Receipt(unit=unit, outcome=outcome, counts=counts)  # type: ignore[arg-type]


def test_the_line_says_how_far_how_fast_and_how_long() -> None:
    standing = Standing(3, 12, 3000, 12000, 7, 250.0, 30000.0)
    assert render(standing) == (
        " 25% | 3/12 units | 3,000 pairs | 250 pairs/s | 30,000 tokens/s"
        " | 7 pairs rejected | 36s left"
    )


def test_without_a_total_nothing_is_promised() -> None:
    assert "left" not in render(Standing(3, 12, 3000, None, 0, 250.0, 30000.0))


def test_a_log_file_gets_a_line_every_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(stream, total_units=50, done_units=0, total_pairs=500, clock=clock)
    for _ in range(40):
        clock.now += 1.0
        progress.add(receipt(10))
    assert len(stream.getvalue().splitlines()) == 4


def test_a_terminal_gets_one_line_that_is_rewritten() -> None:
    stream = Terminal()
    progress = Progress(stream, total_units=2, done_units=0, total_pairs=20, clock=Clock())
    progress.add(receipt(10))
    progress.add(receipt(10))
    progress.close()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().rsplit("\r", 1)[1].startswith("\x1b[2K100% | 2/2 units")


def test_rates_follow_a_change_of_pace() -> None:
    clock = Clock()
    progress = Progress(io.StringIO(), total_units=99, done_units=0, total_pairs=None, clock=clock)
    for _ in range(100):
        clock.now += 1.0
        progress.add(receipt(1000))
    assert progress.standing.pairs_per_second > 900
    for _ in range(100):
        clock.now += 1.0
        progress.add(receipt(10))
    assert progress.standing.pairs_per_second == 10.0


def test_a_failed_unit_is_not_counted_as_done() -> None:
    progress = Progress(io.StringIO(), total_units=2, done_units=1, total_pairs=None)
    progress.add(receipt(0, outcome="failed"))
    assert progress.standing.done_units == 1


def test_durations_have_two_units() -> None:
    assert [duration(s) for s in (42, 185, 7620, 273_600)] == ["42s", "3m 05s", "2h 07m", "3d 04h"]


def test_the_clusters_start_up_is_not_in_the_rate() -> None:
    clock = Clock()
    progress = Progress(io.StringIO(), total_units=9, done_units=0, total_pairs=None, clock=clock)
    clock.now = 100.0
    counts = Counts(pairs_in=50, pairs_out=50, tokens=5000)
    progress.add(Receipt(unit=0, outcome="committed", counts=counts, seconds_score=2.0))
    assert progress.standing.pairs_per_second == 25.0


def test_the_last_line_stands_once() -> None:
    stream = io.StringIO()
    progress = Progress(stream, total_units=1, done_units=0, total_pairs=10, clock=Clock())
    progress.add(receipt(10))
    progress.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_a_unit_that_was_done_again_counts_once(folders) -> None:
    write_nested(folders.input / "a.parquet", [row(number) for number in range(3)])
    plan, stream = folders.open("units.pairs=1").plan, Terminal()
    assert len(plan.units) == 3
    watch = Watch(plan, {0}, stream)
    for unit, outcome in ((0, "already_committed"), (1, "committed"), (1, "already_committed")):
        watch.add(receipt(4, outcome, unit))
    watch.add(receipt(0, "failed", 1))
    assert " 66% | 2/3 units | 4 pairs by this run |" in stream.getvalue().rsplit("\r", 1)[1]
    for _ in range(2):
        watch.add(receipt(4, unit=2))
    assert "100% | 3/3 units | 8 pairs by this run" in stream.getvalue().rsplit("\r", 1)[1]
    assert (watch.num_done, watch.counts.pairs_in, watch.failures) == (2, 8, [])


def test_what_is_not_at_its_end_is_not_at_100_percent() -> None:
    assert render(Standing(999, 1000, 0, None, 0, 0.0, 0.0)).startswith(" 99% |")
