"""A job sent to a running cluster, followed, and ended with its own exit code.

`ray job submit` ends with 0 or 1. A scheduler wants to know whether the same command again goes on
(3), or whether somebody must look (1, 4, 6), so this asks Ray for the code of the driver itself.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from shardrank.config_values import holds_credentials
from shardrank.errors import EXIT_DONE, EXIT_FAILED, EXIT_INCOMPLETE, ConfigError, ShardrankError

_SECONDS_BETWEEN_LOOKS = 1.0
_EXCLUDED = (".git", ".venv", "build", "dist", "out")
"""Of a working directory: nothing that a job needs, and too large to send."""
_SECRET_NAME = re.compile(
    r"(^|_)(SECRET|PASSWORD|TOKEN|ACCESS_KEY|ACCOUNT_KEY|API_KEY|PRIVATE_KEY)(?!.*_(ID|PATH|FILE)$)(_|$)",
    re.IGNORECASE,
)

Write = Callable[[str], Any]


def submit(
    command: Sequence[str],
    *,
    address: str | None = None,
    working_dir: str | Path | None = None,
    wheel: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    submission_id: str | None = None,
    write: Write | None = None,
) -> int:
    """Run a command as a Ray job to its end; returns its exit code, as `exit_code` explains.

    command: such as ["python", "-m", "shardrank", "rerank", "job.toml"].
    address: of the dashboard, http://HEAD:8265; None for RAY_API_SERVER_ADDRESS or this machine's.
    working_dir: is sent along, without what git ignores. wheel: of shardrank, where the image of
        the nodes has none, or another; what it depends on must be in the image.
    environment: variables of the driver and of the workers; none that names a secret.
    submission_id: a name of one's own. Ray refuses one that it has seen.
    write: takes what the job prints, as it prints it.

    Raises ShardrankError if the cluster cannot be reached or refuses the job, and ConfigError for
    a secret in what Ray keeps of a job.
    """
    _refuse_secrets(command, environment or {})
    runtime_env: dict[str, Any] = {"env_vars": dict(environment or {})}
    if working_dir is not None:
        runtime_env |= {"working_dir": str(working_dir), "excludes": list(_EXCLUDED)}
    if wheel is not None:
        runtime_env["py_modules"] = [str(wheel)]
    try:
        client = JobSubmissionClient(address)
        job_id = client.submit_job(
            entrypoint=shlex.join(command), submission_id=submission_id, runtime_env=runtime_env
        )
    except (RayError, RuntimeError, ValueError, OSError) as error:
        raise ShardrankError(
            f"the cluster at {address or 'the default address'} did not take the job: {error}; see "
            "that its dashboard can be reached and, if it asks for a token, set RAY_AUTH_MODE=token"
        ) from error
    return _follow(client, job_id, write or (lambda text: None))


def exit_code(status: JobStatus, driver_exit_code: int | None) -> int:
    """What a Ray job comes to, in shardrank's exit codes.

    The driver's own where it has one. A driver that was stopped, or killed by a signal, leaves what
    it committed, so that is 3; one that never began, since its environment failed, is 1.
    """
    if status == JobStatus.SUCCEEDED:
        return EXIT_DONE
    if status == JobStatus.STOPPED or (driver_exit_code is not None and _killed(driver_exit_code)):
        return EXIT_INCOMPLETE
    return driver_exit_code or EXIT_FAILED


def _refuse_secrets(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Ray keeps command and environment with the job, and shows them on its dashboard."""
    what = next((f"the variable {name}" for name in environment if _SECRET_NAME.search(name)), None)
    for word in (*command, *environment.values()):
        if holds_credentials(word) or holds_credentials(word.partition("=")[2]):
            what = "a URL with credentials"
    if what is not None:
        raise ConfigError(
            f"{what} would be kept by Ray and shown to everybody who reaches the cluster; give "
            "secrets to its nodes instead (service account, profile, or their own environment)"
        )


def _killed(code: int) -> bool:
    """By a signal, as Python says it (negative) or as a shell does (128 and the signal)."""
    return code < 0 or code > 128


def _follow(client: JobSubmissionClient, job_id: str, write: Write) -> int:
    # What the tail loses when a connection breaks is only text; how it ended is asked for below.
    with suppress(RuntimeError, OSError):
        asyncio.run(_tail(client, job_id, write))
    while not (found := client.get_job_info(job_id)).status.is_terminal():
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    code = exit_code(found.status, found.driver_exit_code)
    if found.driver_exit_code is None and found.message and code != EXIT_DONE:
        write(f"{found.message}\n")
    return code


async def _tail(client: JobSubmissionClient, job_id: str, write: Write) -> None:
    async for text in client.tail_job_logs(job_id):
        write(text)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--address", help="Of the dashboard [default: RAY_API_SERVER_ADDRESS].")
@click.option("--working-dir", type=click.Path(exists=True), help="Sent along.")
@click.option(
    "--wheel", type=click.Path(exists=True), help="Of shardrank, where the image has none."
)
@click.option("--env", "variables", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
@click.option("--id", "submission_id", help="A name for the job.")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...")
def main(
    address: str | None,
    working_dir: str | None,
    wheel: str | None,
    variables: tuple[str, ...],
    submission_id: str | None,
    command: tuple[str, ...],
) -> None:
    """Run a command on a cluster as a Ray job, and end with the command's own exit code."""
    environment = {}
    for variable in variables:
        name, is_one, value = variable.partition("=")
        if not is_one:
            raise click.UsageError(f"--env {variable} has no '='; write it as NAME=VALUE")
        environment[name] = value
    try:
        code = submit(
            command,
            address=address,
            working_dir=working_dir,
            wheel=wheel,
            environment=environment,
            submission_id=submission_id,
            write=lambda text: click.echo(text, nl=False),
        )
    except ShardrankError as error:
        click.echo(f"shardrank: {error}", err=True)
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
