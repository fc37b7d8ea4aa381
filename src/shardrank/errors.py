"""One hierarchy of errors; each class fixes the exit code of the command that meets it.

    ShardrankError
      ConfigError             1  a setting is missing, unknown or of the wrong kind
      ModelError              1  a model folder, checkpoint or export cannot be used
      InputError              1  the input as a whole cannot be used
      OutputError             1  the output folder cannot be written or read
        OutputFullError       3  it takes no more: full, over quota or read-only
      ShardError              -  one shard cannot be read: costs the shard, never the job
      BadRowError             1  a bad row, where errors.on_bad_row = "fail"
      IncompleteError         3  units are missing; the same command again goes on
      OutputMismatchError     4  the output belongs to another job
      OutputBusyError         5  another job is at work on the output
      TooManyRejectedError    6  more rows rejected, or more shards failed, than allowed

A message says what was found, where, and what to do next, in one sentence each.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_OTHER_JOB = 4
EXIT_BUSY = 5
EXIT_REJECTED = 6


class ShardrankError(Exception):
    """Base of every error that a user may meet; `str(error)` is the whole message."""

    exit_code = EXIT_FAILED


class ConfigError(ShardrankError):
    """A setting is missing, unknown or of the wrong kind."""


class ModelError(ShardrankError):
    """A model folder, checkpoint or export cannot be used."""


class InputError(ShardrankError):
    """The input as a whole cannot be used."""


class OutputError(ShardrankError):
    """The output folder cannot be written or read."""


class OutputFullError(OutputError):
    """The output takes no more: what is committed stays, and the same command again goes on."""

    exit_code = EXIT_INCOMPLETE


class ShardError(ShardrankError):
    """One shard cannot be read.

    code: a stable word for programs (`not_parquet`, `missing_column`, ...).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, str]]:
        """Both arguments travel when the error crosses a process."""
        return (type(self), (self.code, str(self)))


class BadRowError(ShardrankError):
    """A bad row was met and errors.on_bad_row is "fail"."""


class IncompleteError(ShardrankError):
    """Units are missing; the same command again goes on from there."""

    exit_code = EXIT_INCOMPLETE


class OutputMismatchError(ShardrankError):
    """The output belongs to another job: another model, prompt, shape or input."""

    exit_code = EXIT_OTHER_JOB


class OutputBusyError(ShardrankError):
    """Another job is at work on the output."""

    exit_code = EXIT_BUSY


class TooManyRejectedError(ShardrankError):
    """More rows were rejected, or more shards failed, than the configuration allows."""

    exit_code = EXIT_REJECTED
