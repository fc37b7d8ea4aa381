"""report.html: complete, one file, and inert whatever the data holds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from shardrank.cli import main
from shardrank.job.report_page import write_page
from shardrank.store.filesystem import Storage
from store.small_job import do_job, nested

BLNS = Path(__file__).parents[3] / "shared" / "data" / "blns.json"
HOSTILE = [
    "<script>document.title = 'taken'</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></table><svg onload=alert(1)>",
    "{{ 7 * 7 }} {% for x in y %}",
    "javascript:alert(1)",
    "\u202eright to left\u2066",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "\x00\x0b\x1b[31m",
    "one" * 2000,
]
OURS = set(
    "html head meta link title style body h1 h2 h3 p ul li b div table tr th td tbody img bdi "
    "details summary".split()
)


class Page(HTMLParser):
    """What a page holds: its elements, their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_texts() -> list[str]:
    texts = list(HOSTILE)
    if BLNS.exists():
        texts += [text for text in json.loads(BLNS.read_text()) if text]
    return texts


def make_output(
    folder: Path, name: str, texts: list[list[str | None]], unit_pairs: int = 12, **columns
) -> str:
    folder.mkdir(exist_ok=True)
    pq.write_table(nested(*texts, **columns), folder / f"{name}.parquet")
    do_job(str(folder / f"{name}.parquet"), Storage(str(folder / name)), unit_pairs=unit_pairs)
    return str(folder / name)


@pytest.fixture
def output(tmp_path: Path) -> str:
    texts: list = [[f"text {query} {place}" for place in range(6)] for query in range(8)]
    texts[2][3] = None
    return make_output(tmp_path, "out", texts)


def page(output: str, tmp_path: Path, **options) -> Page:
    write_page(output, html=str(tmp_path / "report.html"), **options)
    return Page(tmp_path / "report.html")


def test_a_page_says_what_was_asked_and_done(output, tmp_path) -> None:
    found = page(output, tmp_path)
    assert "Finished: all 4 units are accounted for." in found.text
    assert "47 pairs out" in " ".join(found.text.split())
    assert "null_text" in found.text
    assert "row 2, candidate 3 (q2 / q2d3)" in found.text
    assert found.tags.count("img") == 3


def test_what_a_page_says_of_rejections_sums_to_the_pairs_rejected(tmp_path) -> None:
    texts: list = [["a", None], ["b", "c", "d"], ["e"]]
    queries = ["q", None, "q"]
    found = page(make_output(tmp_path, "out", texts, query=queries), tmp_path)
    text = " ".join(found.text.split())
    assert "4 pairs rejected" in text
    assert "1 pairs (rows or candidates: 1)" in text
    assert "3 pairs (rows or candidates: 1)" in text


def test_a_page_is_one_file_that_asks_for_nothing(output, tmp_path) -> None:
    found = page(output, tmp_path, compare=output)
    urls = [value or "" for name, value in found.attributes if name in ("src", "href")]
    assert urls
    assert all(url.startswith("data:") for url in urls)
    assert "default-src 'none'" in found.source
    assert set(found.tags) <= OURS


def test_the_page_of_an_output_lies_in_it_unless_it_is_told_otherwise(output) -> None:
    place, _ = write_page(output)
    assert place == f"{output}/_shardrank/report.html"
    assert Path(place).exists()


def test_an_unfinished_output_has_a_page_too(output, tmp_path) -> None:
    sorted(Path(output).glob("*.parquet"))[0].unlink()
    (Path(output) / "_SUCCESS").unlink()
    assert "1 of 4 units are missing" in page(output, tmp_path).text


def test_an_output_without_pairs_has_a_page_too(tmp_path) -> None:
    empty = make_output(tmp_path, "empty", [[], []])
    assert "There are no pairs." in page(empty, tmp_path).text


def test_judgements_add_the_margins_of_positives(output, tmp_path) -> None:
    (tmp_path / "qrels").write_text("q1 0 q1d4 1\nq3 0 q3d0 1\n")
    found = page(output, tmp_path, qrels=str(tmp_path / "qrels"))
    assert "2 judged positives" in found.text


def test_two_outputs_are_compared_query_by_query(output, tmp_path) -> None:
    texts = [[f"text {query} {place + 1}" for place in range(6)] for query in range(8)]
    other = make_output(tmp_path, "other", texts)
    _, facts = write_page(output, compare=other, html=str(tmp_path / "report.html"))
    assert facts.agreement is not None
    assert facts.agreement.num_queries == 8
    assert facts.agreement.tau < 1
    assert "rank here" in Page(tmp_path / "report.html").text


def test_a_sample_is_the_same_queries_of_both(output, tmp_path) -> None:
    html = str(tmp_path / "report.html")
    _, facts = write_page(output, compare=output, html=html, max_compared=4)
    assert facts.agreement is not None
    assert 0 < facts.agreement.num_queries < 8
    assert facts.agreement.tau == 1.0


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """The page of an output whose queries, documents, ids and rejections are all hostile."""
    strings = hostile_texts()
    rows = [[text, f"{text} again", None] for text in strings]
    columns = {"query": strings, "query_id": [f"{i} {text}" for i, text in enumerate(strings)]}
    one = make_output(tmp_path, "one", rows, 5000, **columns)
    rows = [[f"{row[1]}!", row[0], None] for row in rows]
    other = make_output(tmp_path, "two", rows, 5000, **columns)
    write_page(one, compare=other, html=str(tmp_path / "report.html"))
    return tmp_path / "report.html"


def test_text_of_the_data_stays_text(hostile) -> None:
    found = Page(hostile)
    assert set(found.tags) <= OURS
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "document.title = 'taken'" in found.text or "{{ 7 * 7 }}" in found.text


@pytest.mark.extra
@pytest.mark.parametrize("width", [390, 1100])
def test_a_real_browser_shows_it_without_an_error(hostile, tmp_path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium on the path")
    common = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    logging = ["--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile"]
    done = subprocess.run(
        [*common, *logging, "--dump-dom", f"file://{hostile}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert "CONSOLE" not in done.stderr
    assert "<title>shardrank report</title>" in done.stdout
    assert set(re.findall(r"<([a-z0-9]+)[\s>]", done.stdout)) <= OURS
    # A page that is wider than its window would have to be pushed sideways on a phone.
    ruler = tmp_path / "ruler.html"
    ruler.write_text(
        f"<iframe src='report.html' style='width:{width}px;height:900px;border:0'></iframe>"
        "<script>onload = () => { const page = frames[0].document.documentElement;"
        " document.body.dataset.width = page.scrollWidth }</script>"
    )
    measured = subprocess.run(
        [*common, "--allow-file-access-from-files", *logging, "--dump-dom", f"file://{ruler}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = re.search(r'data-width="(\d+)"', measured.stdout)
    assert found is not None
    assert int(found[1]) <= width


def test_the_command_says_where_the_page_is(output, tmp_path) -> None:
    found = CliRunner().invoke(main, ["report", output, "--compare", output])
    assert found.exit_code == 0, found.stderr
    assert found.stdout.startswith(f"report: {output}/_shardrank/report.html")
    assert "Kendall tau 1.0000" in found.stdout
    absent = CliRunner().invoke(main, ["report", str(tmp_path / "absent")])
    assert (absent.exit_code, "is not the output of a job" in absent.stderr) == (1, True)
