"""How good a ranking is. Pure functions over arrays; no I/O, no ray."""
