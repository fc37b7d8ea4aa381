"""The command line; also `python -m shardrank`, where the script is not on the path."""

import sys

from shardrank.errors import EXIT_INCOMPLETE


def main() -> None:
    """Run a command. An interruption while the commands are being loaded is no traceback either."""
    try:
        from shardrank.cli import main as run
    except KeyboardInterrupt:
        print("\nshardrank: interrupted", file=sys.stderr)
        sys.exit(EXIT_INCOMPLETE)
    run(prog_name="shardrank")


if __name__ == "__main__":
    main()
