"""Signals end a command with 128 + their number, after its cleanup and without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import PATIENCE_S

# JAX, which a converter loads in some other test of this process, warns about every fork.
pytestmark = [
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ENDING = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]

HEAD = """
import sys, time
from toolkit.interruption import end_at_once, exit_code_of, signals_raised, uninterrupted
end_at_once()
def say(text):
    print(text, flush=True)
def wait():
    say("waiting")
    sys.stdin.readline()
"""


@contextmanager
def program(code: str, *, ignored: signal.Signals | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run `code`, and wait until it waits."""

    def ignore() -> None:
        for each in ENDING:  # a shell may have started the tests with some of them ignored
            signal.signal(each, signal.SIG_IGN if each == ignored else signal.SIG_DFL)
        if ignored != signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=ignore,
    )
    try:
        hear(process, "waiting")
        yield process
    finally:
        process.kill()
        process.communicate()


def hear(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == expected


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("number", ENDING)
def test_signal_with_nothing_to_clean_up_ends_the_process_at_once(number: signal.Signals) -> None:
    with program("wait(); say('went on')") as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout, stderr) == (128 + number, "", "Error: interrupted\n")


RAISED = """
try:
    with signals_raised():
        try:
            wait()
        finally:
            say("cleaning up")
            sys.stdin.readline()
            say("cleaned up")
except KeyboardInterrupt as stop:
    sys.exit(exit_code_of(stop))
"""


@pytest.mark.parametrize("number", ENDING)
def test_second_signal_does_not_interrupt_the_cleanup(number: signal.Signals) -> None:
    with program(RAISED) as process:
        process.send_signal(number)
        hear(process, "cleaning up")
        for other in ENDING:
            process.send_signal(other)
        go_on(process)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout, stderr) == (128 + number, "cleaned up\n", "")


HANDLED = """
def clean_up():
    with uninterrupted():
        say("cleaning up")
    say("cleaned up")

with signals_raised(clean_up):
    try:
        wait()
    except KeyboardInterrupt:
        say("handled")
say("went on")
"""


def test_signal_that_was_handled_does_not_interrupt_the_cleanup() -> None:
    with program(HANDLED) as process:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    expected = "handled\ncleaning up\ncleaned up\nwent on\n"
    assert (process.returncode, stdout, stderr) == (0, expected, "")


SWALLOWED = """
try:
    with signals_raised():
        try:
            wait()
        except BaseException:
            pass
        say("a library swallowed it")
        time.sleep(3600)
except KeyboardInterrupt as stop:
    sys.exit(exit_code_of(stop))
"""


def test_signal_that_a_library_swallows_is_raised_again() -> None:
    with program(SWALLOWED) as process:
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout) == (143, "a library swallowed it\n")


DESTRUCTOR = """
class Freed:
    def __del__(self):
        wait()
try:
    with signals_raised():
        Freed()
        time.sleep(3600)
except KeyboardInterrupt as stop:
    sys.exit(exit_code_of(stop))
"""


def test_signal_in_a_destructor_is_raised_again() -> None:
    with program(DESTRUCTOR) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 129


POSTPONED = """
try:
    with signals_raised():
        with uninterrupted():
            with uninterrupted():
                wait()
            say("whole")
        say("went on")
except KeyboardInterrupt as stop:
    sys.exit(exit_code_of(stop))
"""


def test_signal_in_a_short_block_is_raised_at_its_end() -> None:
    with program(POSTPONED) as process:
        process.send_signal(signal.SIGQUIT)
        go_on(process)
        stdout, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout) == (131, "whole\n")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_ignored_signal_stays_ignored(number: signal.Signals) -> None:
    """`nohup` ignores SIGHUP; a shell lets commands in the background ignore SIGINT."""
    with program("wait(); say('went on')", ignored=number) as process:
        process.send_signal(number)
        go_on(process)
        stdout, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout) == (0, "went on\n")


FORKED = """
import os
try:
    with signals_raised():
        child = os.fork()
        if child == 0:
            wait()
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
except KeyboardInterrupt:
    say("cleaned up twice")
"""


def test_forked_process_leaves_the_cleanup_to_its_parent() -> None:
    with program(FORKED) as process:
        (child,) = children_of(process.pid)
        os.kill(child, signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout, stderr) == (143, "", "")


def children_of(pid: int) -> list[int]:
    import psutil

    return [each.pid for each in psutil.Process(pid).children()]
