"""The commands of docs/labels.md as they stand there, with tiny models in place of real ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from shardrank.job.labels import make_label_set
from shardrank.labels.formats import LabelFormat
from shardrank.labels.rules import LabelRules
from shardrank.store.filesystem import Storage
from store.small_job import do_job, nested

pytestmark = pytest.mark.extra

PAGE = Path(__file__).parents[2] / "docs" / "labels.md"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "text", *map(str, range(10))]
TEXTS = [[f"text {query} {place}" for place in range(12)] for query in range(8)]


def block(title: str, language: str) -> str:
    """The last block of a language below a title."""
    section = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)
    return blocks[-1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An output to make labels of, in `reranked`, and a folder to work in."""
    pq.write_table(nested(*TEXTS), tmp_path / "in.parquet", row_group_size=2)
    do_job(str(tmp_path / "in.parquet"), Storage(str(tmp_path / "reranked")), unit_pairs=24)
    return tmp_path


def label(folder: Path, name: str, num_negatives: int) -> None:
    rules = LabelRules(num_negatives=num_negatives)
    make_label_set(str(folder / "reranked"), str(folder / "labels"), LabelFormat(name), rules)


def tiny(folder: Path, kind: str) -> str:
    """A BERT of a few hundred weights, made here: nothing is fetched."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
    )
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder / "tiny")
    getattr(transformers, kind)(config).save_pretrained(folder / "tiny")
    return str(folder / "tiny")


def run(folder: Path, command: list[str], **variables: str) -> str:
    # A trainer would take every GPU and every reporter that it finds.
    quiet = {"CUDA_VISIBLE_DEVICES": "", "WANDB_DISABLED": "true", "HF_HUB_OFFLINE": "1"}
    done: Any = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **quiet, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return str(done.stdout + done.stderr)


def test_sentence_transformers_trains_as_documented(folder: Path) -> None:
    pytest.importorskip("sentence_transformers")
    label(folder, "margin-mse", 3)
    program = block("sentence-transformers", "python")
    program = program.replace("answerdotai/ModernBERT-base", tiny(folder, "BertModel"))
    assert "train_loss" in run(folder, [sys.executable, "-c", program])


def test_pylate_trains_as_documented(folder: Path) -> None:
    pytest.importorskip("pylate")
    label(folder, "pylate", 3)
    program = block("PyLate", "python")
    program = program.replace("answerdotai/ModernBERT-base", tiny(folder, "BertModel"))
    assert "train_loss" in run(folder, [sys.executable, "-c", program])


def test_flagembedding_trains_as_documented(folder: Path) -> None:
    pytest.importorskip("FlagEmbedding")
    label(folder, "flagembedding", 7)
    command = block("FlagEmbedding", "sh").replace("\\\n", " ").strip().splitlines()[-1].split()
    command[command.index("BAAI/bge-reranker-v2-m3")] = tiny(
        folder, "BertForSequenceClassification"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    assert command[0] == "torchrun"
    assert "train_loss" in run(folder, [*launcher, *command[1:]])
    assert (folder / "student" / "model.safetensors").exists()
