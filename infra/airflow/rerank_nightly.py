"""Rerank, prove it, make labels, every night: an Airflow 3 DAG.

The job goes to a standing Ray cluster through Ray's own client, since the provider that wrapped it
is no longer kept up; the steps on one machine are pods. Needs ray[default] beside Airflow and
apache-airflow-providers-cncf-kubernetes.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

RAY_DASHBOARD = "http://shardrank-head-svc.shardrank:8265"
IMAGE = "registry.example.com/shardrank:0.1.0-cpu"
INPUT = "s3://search-data/first-stage/{{ ds }}"
OUTPUT = "s3://search-data/reranked/{{ ds }}"
LABELS = "s3://search-data/labels/{{ ds }}"
FINAL_EXIT_CODES = {1, 2, 4, 5, 6}
"""What would come out the same again. 3, and a driver that was killed, are tried again."""

logger = logging.getLogger(__name__)


def command_pod(task_id: str, *command: str) -> KubernetesPodOperator:
    """One shardrank command in a pod of its own."""
    return KubernetesPodOperator(
        task_id=task_id,
        namespace="shardrank",
        service_account_name="shardrank",
        image=IMAGE,
        cmds=["shardrank"],
        arguments=list(command),
        on_finish_action="delete_succeeded_pod",
    )


@dag(
    schedule="0 1 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 6, "retry_delay": timedelta(minutes=5)},
)
def rerank_nightly() -> None:
    @task(execution_timeout=timedelta(hours=22))
    def rerank(input_path: str, output_path: str) -> None:
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(
            RAY_DASHBOARD
        )  # RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, if asked
        job = client.submit_job(
            entrypoint=(
                "shardrank rerank /etc/shardrank/job.toml "
                f"--set input.path={input_path} --set output.path={output_path}"
            )
        )
        try:
            while not (status := client.get_job_status(job)).is_terminal():
                time.sleep(15)
        except BaseException:
            client.stop_job(job)
            raise
        logger.info(client.get_job_logs(job))
        if status == "SUCCEEDED":
            return
        code = client.get_job_info(job).driver_exit_code
        message = f"job {job} {status.lower()} with exit code {code}"
        if code in FINAL_EXIT_CODES:
            raise AirflowFailException(message)
        raise AirflowException(f"{message}: the next try goes on where it stopped")

    verified = command_pod("verify", "verify", INPUT, OUTPUT)
    labelled = command_pod(
        "labels",
        *("labels", OUTPUT, "--format", "margin-mse", "--output", LABELS),
        *("--negatives", "8", "--margin", "2"),
    )
    rerank(INPUT, OUTPUT) >> verified >> labelled


rerank_nightly()
