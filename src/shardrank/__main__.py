"""`python -m shardrank`: the same commands where the script is not on the path."""

from shardrank.cli import main

if __name__ == "__main__":
    main(prog_name="shardrank")
