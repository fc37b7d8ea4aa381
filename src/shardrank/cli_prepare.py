"""The command that makes a model; it parses, calls one function of a room below, and prints."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

import click

from shardrank.config import PromptStyle
from shardrank.errors import ConfigError


@click.command()
@click.argument("source")
@click.option("--output", required=True, type=click.Path(), help="Folder of the prepared model.")
@click.option("--revision", help="Branch, tag or commit of a hub repository.")
@click.option("--cache-folder", type=click.Path(), help="For what is fetched.")
@click.option("--precision", help="[default: w8a8 of a checkpoint, as-is of an ONNX export]")
@click.option(
    "--block-size", type=int, help="Weights that share a scale in int8, int4 [default: 32]."
)
@click.option(
    "--layout",
    help="padded, prefix, fused-prefix, fused or paged [default: prefix; fused for bf16, fp16]",
)
@click.option("--prompt", default="transformers", show_default=True)
@click.option("--max-tokens", type=int, help="Longest prompt [default: the model's, at most 8192].")
@click.option("--smooth", is_flag=True, help="w8a8: move scales from activations into weights.")
@click.option(
    "--keep-sensitive",
    type=int,
    default=0,
    metavar="N",
    help="w8a8: keep the N most sensitive groups of products in fp32.",
)
@click.option(
    "--max-error",
    type=float,
    metavar="X",
    help="w8a8: keep as many in fp32 as it takes; rms error of the log-odds over their deviation.",
)
@click.option(
    "--sample",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Pairs to learn all three from: JSON lines of {query, document}, or a job's Parquet "
    "[default: built-in text].",
)
def prepare(
    source: str,
    output: str,
    revision: str | None,
    cache_folder: str | None,
    precision: str | None,
    block_size: int | None,
    layout: str | None,
    prompt: str,
    max_tokens: int | None,
    smooth: bool,
    keep_sensitive: int,
    max_error: float | None,
    sample: Path | None,
) -> None:
    """Make a prepared model of a Hugging Face checkpoint or an ONNX export.

    SOURCE is a folder, an .onnx file, a hub id (Qwen/Qwen3-Reranker-0.6B), one export of a hub
    repository (owner/name/onnx/model_q4.onnx), or a URL (s3://bucket/model). A path that exists
    wins over a hub id.
    """
    from shardrank.graph.tuning import TuningRequest
    from shardrank.job.prepare import prepare_source

    tuning = TuningRequest(smooth, keep_sensitive, max_error, sample)
    model = prepare_source(
        source,
        Path(output),
        revision=revision,
        cache_folder=cache_folder,
        precision=precision,
        block_size=block_size,
        layout=layout,
        prompt_style=prompt_style(prompt),
        max_tokens=max_tokens,
        tuning=tuning,
        progress=_tell if tuning else None,
    )
    click.echo(f"{output}: {model.precision}, layout {model.layout}, {model.prompt_style} prompts")
    click.echo(f"next: shardrank check {output}")


def prompt_style(name: str) -> PromptStyle:
    """The prompt style of this name; raises ConfigError if there is none."""
    if name not in get_args(PromptStyle):
        raise ConfigError(
            f"unknown prompt style {name!r}; choose one of {', '.join(get_args(PromptStyle))}"
        )
    return cast(PromptStyle, name)


def _tell(text: str) -> None:
    click.echo(text, err=True)
