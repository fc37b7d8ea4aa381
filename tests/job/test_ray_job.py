"""The job as a cluster's user runs it: `ray start --head`, then `ray job submit`, and metrics."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from commands import environment, shardrank, start_shardrank
from oracles.checkpoints import make_random_checkpoint
from shardrank.engine.model import PreparedModel
from shardrank.engine.operators import suits_this_machine
from shardrank.errors import ConfigError, OutputBusyError, ShardrankError
from shardrank.job.holding import holding
from shardrank.job.metrics import METRICS, OUTPUT
from shardrank.job.submit import submit as submit_and_follow
from shardrank.store.filesystem import Storage
from tables import read_output, row, write_nested

pytestmark = pytest.mark.ray

PROJECT = Path(__file__).parent.parent.parent
RAY = str(Path(sys.executable).with_name("ray"))
PORT = "26379"
DASHBOARD_PORT = "28265"
METRICS_PORT = "28268"
DASHBOARD = f"http://127.0.0.1:{DASHBOARD_PORT}"


def ray_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env=environment(**variables),
    )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    token = tmp_path_factory.mktemp("auth") / "token"
    token.write_text("0123456789abcdef" * 4)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    variables["RAY_metrics_report_interval_ms"] = "1000"
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={PORT}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    # Ports of its own, since the agent of another cluster on this machine has the usual ones.
    command += ["--dashboard-agent-listen-port=28266", "--dashboard-agent-grpc-port=28267"]
    command += [f"--metrics-export-port={METRICS_PORT}", "--ray-client-server-port=28269"]
    # Nor may it share a folder with another cluster: a job's driver is sent to the newest in it.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    command.append(f"--temp-dir={folder}")
    # Not `ray stop`, which would end every Ray process of this machine, other people's too.
    started = subprocess.Popen(
        [*command, f"--dashboard-port={DASHBOARD_PORT}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(**variables),
        start_new_session=True,
    )
    deadline = time.monotonic() + 180
    probe = ("job", "submit", f"--address={DASHBOARD}", "--", "true")
    while ray_command(*probe, **variables).returncode != 0:
        assert started.poll() is None
        assert time.monotonic() < deadline
    yield variables
    started.terminate()
    try:
        started.wait(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def submit(head: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return ray_command(
        *("job", "submit", f"--address={DASHBOARD}", "--working-dir=."),
        *("--runtime-env-json", '{"excludes": [".venv", ".git", "build", "out"]}'),
        *("--", *command),
        **head,
    )


def test_a_submitted_job_reranks(head: dict[str, str], tmp_path: Path) -> None:
    write_nested(tmp_path / "in" / "a.parquet", [row(number) for number in range(6)])
    settings = [f"input.path={tmp_path}/in", f"output.path={tmp_path}/out"]
    done = submit(
        head,
        *(sys.executable, "jobs/rerank.py", "configs/demo.toml"),
        *(part for setting in settings for part in ("--set", setting)),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "done: 6 rows, 24 pairs" in done.stdout
    assert len(read_output(tmp_path / "out")) == 6
    assert os.path.exists(tmp_path / "out" / "_SUCCESS")


def test_a_submitted_job_prepares_a_model(head: dict[str, str], tmp_path: Path) -> None:
    checkpoint = make_random_checkpoint(tmp_path / "checkpoint")
    done = submit(
        head,
        *(sys.executable, "jobs/prepare.py", str(checkpoint), "--output", f"{tmp_path}/model"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    model = PreparedModel.load(tmp_path / "model")
    layout = "fused-prefix" if suits_this_machine() else "prefix"
    assert (model.precision, model.layout) == ("w8a8", layout)


def test_a_running_cluster_is_taken_and_left_running(head: dict[str, str], tmp_path: Path) -> None:
    write_nested(tmp_path / "in" / "a.parquet", [row(number) for number in range(3)])
    folders = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--model", "demo")
    address = ("--set", f"cluster.address=127.0.0.1:{PORT}")
    done = shardrank("rerank", *folders, *address, **head)
    assert done.returncode == 0, done.stderr
    assert ray_command("status", f"--address=127.0.0.1:{PORT}", **head).returncode == 0


def test_a_cluster_that_asks_for_a_token_is_one_clear_message(
    head: dict[str, str], tmp_path: Path
) -> None:
    write_nested(tmp_path / "in" / "a.parquet", [row(1)])
    folders = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--model", "demo")
    address = ("--set", f"cluster.address=127.0.0.1:{PORT}")
    failed = shardrank("rerank", *folders, *address, RAY_AUTH_MODE="disabled")
    assert failed.returncode == 1
    assert "RAY_AUTH_MODE=token" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_submitted_job_that_fails_says_why(head: dict[str, str], tmp_path: Path) -> None:
    failed = submit(
        head,
        *(sys.executable, "jobs/rerank.py", "configs/demo.toml"),
        *("--set", f"input.path={tmp_path}/absent"),
    )
    assert failed.returncode == 1
    assert f"no input at {tmp_path}/absent" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout


@pytest.fixture
def run(head: dict[str, str], tmp_path: Path):
    """Rerank as a Ray job through the client; gives the job's own exit code and what it printed."""
    rows = [row(number) | ({"query": None} if number == 3 else {}) for number in range(40)]
    write_nested(tmp_path / "in" / "a.parquet", rows, row_group_size=5)

    def submit_rerank(*settings: str) -> tuple[int, str]:
        paths = [f"input.path={tmp_path}/in", f"output.path={tmp_path}/out", "model.path=demo"]
        command = [sys.executable, "-m", "shardrank", "rerank"]
        for setting in (*paths, "units.pairs=20", *settings):
            command += ["--set", setting]
        done = follow(head, "--", *command)
        return done.returncode, done.stdout + done.stderr

    return submit_rerank


def follow(head: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since Ray reads how to authenticate once."""
    return subprocess.run(
        [sys.executable, "jobs/submit.py", "--address", DASHBOARD, *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env=environment(**head),
    )


def test_every_exit_code_comes_through_the_client(run, tmp_path: Path) -> None:
    """3 by actors that no node can hold; 6 by one bad row, which is then allowed."""
    assert run("cluster.actor_resources={absent = 1}", "cluster.no_progress_seconds=4")[0] == 3
    with holding(Storage(f"{tmp_path}/out", "output"), 30.0):
        code, printed = run("lease.seconds=1")
        assert (code, "at work" in printed) == (OutputBusyError.exit_code, True), printed
    assert run("errors.max_rejected_fraction=0")[0] == 6
    assert run("output.top_k=2")[0] == 4
    assert run("errors.max_rejected_fraction=1", "logging.format=json")[0] == 0
    assert run(f"input.path={tmp_path}/absent")[0] == 1


def test_a_cluster_that_cannot_be_reached_is_one_clear_error() -> None:
    with pytest.raises(ShardrankError, match="did not take the job"):
        submit_and_follow(["true"], address="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (["rerank", "--input", "s3://key:secret@bucket/in"], {}),
        (["rerank", "--set", "output.path=s3://key:secret@bucket/out"], {}),
        (["rerank"], {"WHERE": "https://user:secret@host/"}),
        (["rerank"], {"AWS_SECRET_ACCESS_KEY": "secret"}),
        (["rerank"], {"HF_TOKEN": "secret"}),
    ],
)
def test_a_secret_is_not_sent(command: list[str], environment: dict[str, str]) -> None:
    nobody = "http://127.0.0.1:9"
    with pytest.raises(ConfigError, match="would be kept by Ray") as refused:
        submit_and_follow(command, address=nobody, environment=environment)
    assert "secret@" not in str(refused.value)
    harmless = {"TOKENIZERS_PARALLELISM": "0", "AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token"}
    with pytest.raises(ShardrankError, match="did not take the job"):
        submit_and_follow(["rerank", "--set", "a=b"], address=nobody, environment=harmless)


def test_ray_keeps_no_secret_of_a_job(head: dict[str, str], tmp_path: Path) -> None:
    """In the submitter's environment, and in a configuration that is refused for it."""
    planted = {"AWS_SECRET_ACCESS_KEY": "planted-one", "HF_TOKEN": "planted-two"}
    write_nested(tmp_path / "in" / "a.parquet", [row(1)])
    (tmp_path / "work").mkdir()
    for name, source in (("good", f"{tmp_path}/in"), ("bad", "s3://key:planted-three@bucket/in")):
        text = f'[input]\npath = "{source}"\n[output]\npath = "{tmp_path}/out"\n'
        (tmp_path / "work" / f"{name}.toml").write_text(f'{text}[model]\npath = "demo"\n')
    for name, code in (("good", 0), ("bad", 1)):
        done = follow(
            head | planted,
            *(
                "--working-dir",
                f"{tmp_path}/work",
                "--id",
                f"secrets-{name}",
                "--env",
                "PLAIN=seen",
            ),
            *("--", sys.executable, "-m", "shardrank", "rerank", f"{name}.toml"),
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "planted" not in done.stdout + done.stderr
    kept = subprocess.run(
        [sys.executable, "-c", KEPT_JOBS, DASHBOARD, "secrets-good", "secrets-bad"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(**head),
    ).stdout
    # It is all there: commands, environments, and why the second one failed.
    assert all(text in kept for text in ("bad.toml", "PLAIN", "seen", "holds credentials"))
    assert "planted" not in kept


KEPT_JOBS = """
import sys
from ray.job_submission import JobSubmissionClient

client = JobSubmissionClient(sys.argv[1])
print(*(job.json() for job in client.list_jobs()), sep="\\n")
for name in sys.argv[2:]:
    print(client.get_job_info(name).json(), client.get_job_logs(name), sep="\\n")
"""


def test_a_wheel_that_is_sent_along_is_what_runs(head: dict[str, str], tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--quiet"]
    subprocess.run([*build, f"--wheel-dir={tmp_path}"], cwd=PROJECT, check=True)
    (wheel,) = tmp_path.glob("shardrank-*.whl")
    write_nested(tmp_path / "in" / "a.parquet", [row(1)])
    (tmp_path / "job").mkdir()
    program = "import shardrank; print(shardrank.__file__); from shardrank.cli import main; main()"
    (tmp_path / "job" / "where.py").write_text(program)
    sent = follow(
        head,
        *("--wheel", str(wheel), "--working-dir", str(tmp_path / "job"), "--"),
        *(sys.executable, "where.py", "rerank"),
        *("--input", f"{tmp_path}/in", "--output", f"{tmp_path}/out", "--model", "demo"),
    )
    assert sent.returncode == 0, sent.stdout[-3000:] + sent.stderr[-3000:]
    assert "py_modules_files" in sent.stdout
    assert "done: 1 rows, 4 pairs" in sent.stdout


def test_a_running_job_exports_exactly_the_metrics_that_are_documented(
    head: dict[str, str], tmp_path: Path
) -> None:
    """Scraped while it runs, by the parser of a Prometheus client."""
    rows = [row(number) | ({"query": None} if number % 9 == 3 else {}) for number in range(150)]
    write_nested(tmp_path / "in" / "a.parquet", rows)
    output = f"{tmp_path}/out"
    paths = ("--input", f"{tmp_path}/in", "--output", output, "--model", "demo")
    settings = ("units.pairs=8", "errors.max_rejected_fraction=1", "scoring.reuse_prefix=false")
    running = start_shardrank(
        *("rerank", *paths, "--set", f"cluster.address=127.0.0.1:{PORT}"),
        *(part for setting in settings for part in ("--set", setting)),
        **head,
    )
    found: dict[str, set[str]] = {}
    values: dict[tuple[str, str], float] = {}
    deadline = time.monotonic() + 200
    try:
        while running.poll() is None and time.monotonic() < deadline:
            for name, labels, value in scraped():
                if labels.get(OUTPUT) == output:
                    found.setdefault(name, set()).update(labels)
                    values[name, labels.get("stage", "")] = value
            time.sleep(0.5)
    finally:
        running.kill()
    assert running.returncode == 0, running.communicate()[0]
    assert set(found) == {metric.exported for metric in METRICS.values()}
    for metric in METRICS.values():
        assert {OUTPUT, *metric.labels} <= found[metric.exported]
    assert values["ray_shardrank_planned_units", ""] == 75
    assert 0 < values["ray_shardrank_done_units", ""] <= 75
    assert 0 < values["ray_shardrank_stage_units_total", "score"] <= 75
    assert 0 <= values["ray_shardrank_device_busy_share", ""] <= 1


def scraped() -> list[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each of our samples."""
    url = f"http://127.0.0.1:{METRICS_PORT}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    return [
        (sample.name, sample.labels, sample.value)
        for sample in samples
        if sample.name.startswith("ray_shardrank_")
    ]
