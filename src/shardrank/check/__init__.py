"""Proves a prepared model on this machine, before a long job does."""
