"""Reranked shards as a daily asset: Dagster, on a standing Ray cluster.

The job goes there through Ray's own client, which knows the exit code: that decides about a retry.
Needs dagster and ray[default]. `dg check defs` and `dagster dev` show it.
"""

import time

import dagster as dg
from ray.job_submission import JobSubmissionClient

FINAL_EXIT_CODES = {1, 2, 4, 5, 6}
"""What would come out the same again. 3, and a driver that was killed, are tried again."""


class RayJobs(dg.ConfigurableResource[JobSubmissionClient]):
    """A standing Ray cluster: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, where it asks for a token."""

    address: str
    poll_seconds: float = 15.0

    def run(self, command: str) -> tuple[str, int | None, str]:
        """Run a command to its end; the job's status, its exit code and what it logged."""
        client = JobSubmissionClient(self.address)
        job = client.submit_job(entrypoint=command)
        try:
            while not (status := client.get_job_status(job)).is_terminal():
                time.sleep(self.poll_seconds)
        except BaseException:
            client.stop_job(job)
            raise
        return str(status), client.get_job_info(job).driver_exit_code, client.get_job_logs(job)


@dg.asset(
    partitions_def=dg.DailyPartitionsDefinition(start_date="2026-01-01"),
    retry_policy=dg.RetryPolicy(max_retries=6, delay=300),
)
def reranked(context: dg.AssetExecutionContext, ray_jobs: RayJobs) -> dg.MaterializeResult:
    """The first stage's candidates of one day, reranked."""
    output = f"s3://search-data/reranked/{context.partition_key}"
    status, exit_code, logs = ray_jobs.run(
        "shardrank rerank /etc/shardrank/job.toml "
        f"--set input.path=s3://search-data/first-stage/{context.partition_key} "
        f"--set output.path={output}"
    )
    context.log.info(logs)
    if status != "SUCCEEDED":
        raise dg.Failure(
            f"the job {status.lower()} with exit code {exit_code}",
            allow_retries=exit_code not in FINAL_EXIT_CODES,
        )
    return dg.MaterializeResult(metadata={"output": output})


@dg.definitions
def definitions() -> dg.Definitions:
    nightly = dg.define_asset_job("rerank_nightly", [reranked])
    return dg.Definitions(
        assets=[reranked],
        schedules=[dg.build_schedule_from_partitioned_job(nightly, hour_of_day=1)],
        resources={"ray_jobs": RayJobs(address="http://shardrank-head-svc.shardrank:8265")},
    )
