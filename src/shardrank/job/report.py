"""`_shardrank/report.json`: what the last execution of a job did, however it ended."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from shardrank import __version__
from shardrank.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INCOMPLETE,
    OutputError,
    ShardrankError,
)
from shardrank.job.opening import Job, job_name
from shardrank.job.watch import Watch

REPORT_NAME = "_shardrank/report.json"
FORMAT_VERSION = 1


def _exit_code(error: BaseException) -> int:
    if isinstance(error, ShardrankError):
        return error.exit_code
    return EXIT_INCOMPLETE if isinstance(error, KeyboardInterrupt) else EXIT_FAILED


def write_report(job: Job, watch: Watch, seconds: float, error: BaseException | None) -> None:
    """Replace the report. A report that cannot be written must not hide how the job ended."""
    report: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "shardrank": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "output": job.output.display(),
        "job": job_name(job.plan.fingerprints),
        "score_fingerprint": job.plan.fingerprints.score,
        "output_fingerprint": job.plan.fingerprints.output,
        "finished": error is None,
        "exit_code": EXIT_DONE if error is None else _exit_code(error),
        "error": type(error).__name__ if error else None,
        "message": str(error) if isinstance(error, ShardrankError) else None,
        "units": len(job.plan.units),
        "units_by_this_run": watch.num_done,
        "reused_from": None if job.earlier is None else job.earlier.display(),
        "reused_share": round(watch.counts.pairs_reused / max(1, watch.counts.pairs_in), 6),
        "counts_of_this_run": watch.counts.as_dict(),
        "seconds": round(seconds, 3),
        "pairs_per_second": round(watch.pairs_per_second, 3),
        "warnings": list(job.warnings),
        "failures": watch.failures,
    }
    try:
        job.output.replace(REPORT_NAME, json.dumps(report, ensure_ascii=False, indent=2).encode())
    except OutputError:
        if error is None:
            raise
