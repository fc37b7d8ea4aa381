"""A checkpoint in, a prepared model out. Needed by `prepare` and `check`, never on a worker."""
