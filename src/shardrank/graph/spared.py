"""The products that W8A8 leaves in fp32 in every model, because they are cheap or come first."""

from __future__ import annotations

from collections.abc import Sequence

from shardrank.graph.product_group import ProductGroup

# Of fewer layers the first would be a large part of the work.
_FEWEST_LAYERS = 4
_ATTENTION = (".qkv", ".o")


def spared_groups(groups: Sequence[ProductGroup]) -> list[ProductGroup]:
    """Those of the first layer's attention, and those of the last that see only last tokens.

    An error of the first layer goes through all others, and what is multiplied once a prompt costs
    no time. In 28 layers that is 2 to 3 % of the time of all products; the first layer's MLP would
    be three times as much (docs/decisions/011-spared.md). None in a model of fewer than four
    layers.

    groups: of the whole model, in the order of the graph.
    """
    layers = sorted({group.layer for group in groups})
    if len(layers) < _FEWEST_LAYERS:
        return []
    return [
        group
        for group in groups
        if (group.layer == layers[0] and group.name.endswith(_ATTENTION)) or group.sees_last_only
    ]


def spared_products(groups: Sequence[ProductGroup]) -> frozenset[str]:
    """Their products, by name without ".weight"."""
    return frozenset(name for group in spared_groups(groups) for name in group.products)
