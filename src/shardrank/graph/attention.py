"""The node com.microsoft.GroupQueryAttention."""

from __future__ import annotations

from collections.abc import Sequence

from shardrank.graph.architecture import Architecture
from shardrank.graph.writer import MICROSOFT, GraphWriter

# Places among its inputs. The key norm's weight is behind the query's.
_QUERY_NORM, _NUM_NEW = 14, 16


def append_attention(
    writer: GraphWriter,
    architecture: Architecture,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    norms: Sequence[str] = (),
    num_new: str = "",
) -> str:
    """Append the node, rotary positions included, and return its first output.

    inputs: query, key and value [batch, width, heads x size], past key and past value (or nothing),
        the last place that each row may read, and how many places there are.
    outputs: attended values [batch, width, heads x size], present key, present value.
    norms: weights of the norms of query and key, for kernels that have them.
    num_new: tokens of each row after its past, where the kernel cannot tell.
    """
    given = [*inputs, "rotary.cosines", "rotary.sines"]
    attributes: dict[str, int | float] = {}
    if norms:
        _put(given, _QUERY_NORM, *norms)
        attributes["qk_norm_epsilon"] = architecture.norm_epsilon
    if num_new:
        _put(given, _NUM_NEW, num_new)
    return writer.node(
        "GroupQueryAttention",
        given,
        outputs[0],
        outputs=outputs,
        domain=MICROSOFT,
        num_heads=architecture.num_heads,
        kv_num_heads=architecture.num_key_value_heads,
        do_rotary=1,
        **attributes,
    )


def _put(inputs: list[str], place: int, *names: str) -> None:
    """Append at this place; what is skipped is left out."""
    inputs += [""] * (place - len(inputs))
    inputs += names
