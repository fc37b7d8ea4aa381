import subprocess
import sys

import pytest

from commands import environment

PROGRAM = """
import os, signal, subprocess
from shardrank.job.last_words import LastWords
words = LastWords("it was $HOME; `run` it \\"again\\"")
child = subprocess.Popen(["sleep", "2"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
{end}
"""


def said(end: str) -> str:
    """What a process says that ends like this, its children included."""
    command = [sys.executable, "-c", PROGRAM.format(end=end)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environment()
    ).stderr


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_process_that_is_gone_at_once_has_last_words(end: str) -> None:
    assert said(end) == 'it was $HOME; `run` it "again"\n'


def test_what_was_taken_back_is_not_said() -> None:
    assert said("words.take_back(); words.take_back(); os._exit(1)") == ""
