"""Public fakes, for the tests of shardrank and of those who build on it.

The fake scores are a known function of a prompt's ids. With k the place of a token in its prompt,
counted from 1:

    sum = the sum over the tokens of ((31 * id + 17 * k) ** 2 mod 10007)
    yes = (sum mod 65536) / 8192 - 4,  no = -yes,  so that log_odds = 2 * yes is in [-8, 8)

It depends on every id and on the order, not on padding and not on the neighbours in the batch, and
every step is exact in float32. `FakeSession` computes it in numpy, `fake_model` writes a folder
whose ONNX graph computes the same.

`failing_store` is a file system that fails on command: see shardrank.testing_faults.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shardrank.engine.model import GRAPH_NAME, TOKENIZER_NAME, PreparedModel, file_sha256
from shardrank.engine.prompt import DEFAULT_INSTRUCTION
from shardrank.engine.session import Past, SessionDescription, refuse_broken_mask
from shardrank.testing_faults import DEATHS as DEATHS
from shardrank.testing_faults import FailingStore as FailingStore
from shardrank.testing_faults import FaultKind as FaultKind
from shardrank.testing_faults import Faults as Faults
from shardrank.testing_faults import ProcessDied as ProcessDied
from shardrank.testing_faults import failing_store as failing_store
from shardrank.types import Float32Array, Int64Array

FAKE_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")

_ID_FACTOR, _PLACE_FACTOR, _PRIME, _RANGE, _SCALE = 31, 17, 10007, 65536, 8192


def fake_log_odds(token_ids: Sequence[int] | Int64Array) -> float:
    """The log-odds that FakeSession and fake_model give a prompt of these ids."""
    total = sum(
        (_ID_FACTOR * int(id) + _PLACE_FACTOR * place) ** 2 % _PRIME
        for place, id in enumerate(token_ids, start=1)
    )
    return 2 * (total % _RANGE / _SCALE - 4)


@dataclass(frozen=True, slots=True)
class FakePast:
    """The tokens themselves, int64 [1, num_tokens]."""

    input_ids: Int64Array

    @property
    def num_tokens(self) -> int:
        """How many tokens they are."""
        return int(self.input_ids.shape[1])


class FakeSession:
    """A session whose logits are the function above; see Session for the methods.

    takes_past: whether it is one of layout `prefix`, with its rules: an even past, a batch of one.
    batches_past: whether a past may be of a batch. shares_past: whether runs are long, besides.

    nan_on: a prompt that holds one of these ids gets NaN logits.
    raise_on: a batch that holds one of these ids raises RuntimeError.
    batch_shapes: (num_prompts, longest) of every batch so far, in order, the past not counted.
    """

    def __init__(
        self,
        nan_on: Collection[int] = (),
        raise_on: Collection[int] = (),
        *,
        takes_past: bool = False,
        batches_past: bool = False,
        shares_past: bool = False,
    ) -> None:
        self.takes_past = takes_past
        self.batches_past = batches_past
        self.shares_past = shares_past
        self.nan_on = np.array(sorted(nan_on), np.int64)
        self.raise_on = np.array(sorted(raise_on), np.int64)
        self.batch_shapes: list[tuple[int, ...]] = []

    @property
    def description(self) -> SessionDescription:
        """Nothing real."""
        return SessionDescription("0.0.0", "FakeExecutionProvider", "none")

    def extend(self, input_ids: Int64Array, past: Past | None = None) -> FakePast:
        """The past and these ids. Raises ValueError where a real session would score wrong."""
        self.batch_shapes.append(input_ids.shape)
        return FakePast(self._continued(input_ids, past))

    def extend_each(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> list[FakePast]:
        """The past and the ids of each row; raises ValueError if not shares_past."""
        refuse_broken_mask(attention_mask)
        if not self.shares_past:
            raise ValueError("several pasts are of a session that shares them")
        self.batch_shapes.append(input_ids.shape)
        rows = zip(input_ids, attention_mask == 1, strict=True)
        return [FakePast(self._continued(ids[is_token][None], past)) for ids, is_token in rows]

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        """Logits of a batch. Raises ValueError for a broken mask, as a real session does."""
        refuse_broken_mask(attention_mask)
        self.batch_shapes.append(input_ids.shape)
        if past is not None:
            if len(input_ids) > 1 and not self.batches_past:
                raise ValueError("a past is of one prompt")
            before = np.repeat(self._continued(input_ids[:1, :0], past), len(input_ids), axis=0)
            input_ids = np.concatenate([before, input_ids], axis=1)
            attention_mask = np.concatenate([np.ones_like(before), attention_mask], axis=1)
        is_token = attention_mask == 1
        if (np.isin(input_ids, self.raise_on) & is_token).any():
            raise RuntimeError("FakeSession was told to fail on an id of this batch")
        places = np.cumsum(attention_mask, axis=1)
        mixed = (_ID_FACTOR * input_ids + _PLACE_FACTOR * places) ** 2 % _PRIME
        total = (mixed * attention_mask).sum(axis=1) % _RANGE
        yes = (total / _SCALE - 4).astype(np.float32)
        yes[(np.isin(input_ids, self.nan_on) & is_token).any(axis=1)] = np.nan
        return np.stack([yes, -yes], axis=1)

    def _continued(self, input_ids: Int64Array, past: Past | None) -> Int64Array:
        before = past.input_ids if isinstance(past, FakePast) else input_ids[:, :0]
        continued = np.concatenate([before, input_ids], axis=1)
        if not self.takes_past or len(continued) != 1 or continued.shape[1] % 2:
            raise ValueError("a past is of one prompt, of an even length, and of layout prefix")
        return continued


def fake_model(
    folder: Path, max_tokens: int = 8192, dies_on: int | None = None, **settings: Any
) -> Path:
    """Write a prepared model of a few kilobytes that onnxruntime can open; needs onnx.

    Its tokenizer takes a byte for a token. settings: fields of PreparedModel that are to differ.
    dies_on: a batch that holds this id kills the process that scores it, on x86, by a signal that
        nothing can catch.

    Returns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TOKENIZER_NAME).write_bytes(fake_tokenizer())
    (folder / GRAPH_NAME).write_bytes(_fake_graph(dies_on))
    vocabulary = json.loads(fake_tokenizer())["model"]["vocab"]
    fields: dict[str, Any] = {
        "source": {"name": "shardrank.testing.fake_model", "files": {}},
        "files": {name: file_sha256(folder / name) for name in (TOKENIZER_NAME, GRAPH_NAME)},
        "architecture": {"model_type": "fake"},
        "precision": "fp32",
        "layout": "padded",
        "yes_id": vocabulary["yes"],
        "no_id": vocabulary["no"],
        "pad_id": len(vocabulary),
        "prompt_style": "transformers",
        "instruction": DEFAULT_INSTRUCTION,
        "max_tokens": max_tokens,
        "min_onnxruntime": "1.18",
    }
    PreparedModel(**{**fields, **settings}).save(folder)
    return folder


def fake_tokenizer() -> bytes:
    """A tokenizer.json: Qwen3's normalizer and pre-tokenizer, one token a byte, `yes` and `no`."""
    from tokenizers import pre_tokenizers

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ye", "yes", "no"]
    words = r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    pattern = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{words}"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": len(pieces) + number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, token in enumerate(FAKE_SPECIAL_TOKENS)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{**split, "invert": False}, {**byte_level, "use_regex": False}],
        },
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {piece: id for id, piece in enumerate(pieces)},
            "merges": [["y", "e"], ["ye", "s"], ["n", "o"]],
        },
    }
    return json.dumps(definition).encode()


_DEADLY_STEPS: tuple[tuple[str, list[str], str], ...] = (
    ("Equal", ["input_ids", "deadly_id"], "is_deadly"),
    ("Cast", ["is_deadly"], "found"),
    ("ReduceMax", ["found"], "any_found"),
    ("Mul", ["any_found", "two"], "twice"),
    ("Sub", ["one", "twice"], "sign"),
    ("Div", ["lowest", "sign"], "quotient"),
    ("Mul", ["quotient", "zero"], "nothing"),
    ("Add", ["total", "nothing"], "survived"),
)
"""The lowest int64 divided by 1, or by -1 where the id is there: no number, and x86 traps."""


def _fake_graph(dies_on: int | None) -> bytes:
    from onnx import TensorProto, checker, helper

    def constant(name: str, value: int) -> Any:
        return helper.make_tensor(name, TensorProto.INT64, [1], [value])

    steps = [
        ("CumSum", ["attention_mask", "axis"], "places"),
        ("Mul", ["places", "place_factor"], "place_part"),
        ("Mul", ["input_ids", "id_factor"], "id_part"),
        ("Add", ["id_part", "place_part"], "mixed"),
        ("Mul", ["mixed", "mixed"], "squared"),
        ("Mod", ["squared", "prime"], "reduced"),
        ("Mul", ["reduced", "attention_mask"], "masked"),
        ("ReduceSum", ["masked", "axis"], "total"),
        *(() if dies_on is None else _DEADLY_STEPS),
        ("Mod", ["total" if dies_on is None else "survived", "range"], "within"),
        ("Cast", ["within"], "real"),
        ("Div", ["real", "scale"], "scaled"),
        ("Sub", ["scaled", "four"], "yes"),
        ("Neg", ["yes"], "no"),
        ("Concat", ["yes", "no"], "logits"),
    ]
    attributes: dict[str, dict[str, int]] = {
        "real": {"to": TensorProto.FLOAT},
        "found": {"to": TensorProto.INT64},
        "any_found": {"keepdims": 0},
        "logits": {"axis": 1},
    }
    nodes = [
        helper.make_node(kind, inputs, [output], name=output, **attributes.get(output, {}))
        for kind, inputs, output in steps
    ]
    numbers = {"axis": 1, "place_factor": _PLACE_FACTOR, "id_factor": _ID_FACTOR}
    numbers |= {"prime": _PRIME, "range": _RANGE}
    if dies_on is not None:
        numbers |= {"deadly_id": dies_on, "one": 1, "two": 2, "lowest": -(2**63), "zero": 0}
    shape = ["num_prompts", "longest"]
    graph = helper.make_graph(
        nodes,
        "fake",
        inputs=[
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name in ("input_ids", "attention_mask")
        ],
        outputs=[helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["num_prompts", 2])],
        initializer=[
            *(constant(name, value) for name, value in numbers.items()),
            helper.make_tensor("scale", TensorProto.FLOAT, [1], [float(_SCALE)]),
            helper.make_tensor("four", TensorProto.FLOAT, [1], [4.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
