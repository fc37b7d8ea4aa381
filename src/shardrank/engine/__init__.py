"""Pairs in, scores out. No ray, no storage, no network."""
