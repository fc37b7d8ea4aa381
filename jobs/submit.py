"""Run a command as a Ray job: `python jobs/submit.py --address URL -- COMMAND`."""

from shardrank.job.submit import main

if __name__ == "__main__":
    main()
