"""
The process of a node: how its threads wait, what an interrupt does, and how it ends.

Whatever runs nodes imports this before torch. A launch file does not: it would hand the settings
on to all that it starts, programs of other packages too.
"""

from collections.abc import Callable
from contextlib import suppress
import ctypes
import logging
import os
import signal
import sys
import traceback
from typing import NoReturn

from kpfeat_core.runtime import keep_memory, share_cores

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Spinning threads would keep the cores from other nodes: on two busy ones a matcher took 100 ms
# instead of 8 for a pair.
share_cores()
keep_memory()


def end_quietly_on_interrupt() -> None:
    """
    Let an interrupt end a program that still imports, without a traceback.

    It has done nothing yet, so that its end is as clean as that of a node that was interrupted
    later. SIGINT that is ignored, as in the background of a shell, stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: _exit(0))


def leave(main: Callable[[], int | None]) -> NoReturn:
    """
    Run a program, then end the process at once with its exit code.

    Python would take apart all that was imported first, which is a second of work with torch:
    on a busy machine `ros2 launch` lost its patience with it, and killed the nodes. What the
    program has opened is closed by now, and streams are flushed here. A signal that comes
    meanwhile, such as a second Ctrl-C, changes nothing.
    """
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # main may set another
    try:
        code = main()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    logging.shutdown()
    _exit(code or 0)


def _exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, RuntimeError, ValueError):  # none, closed, a pipe
            stream.flush()
    with suppress(AttributeError, OSError, TypeError):  # not every system has such a function
        ctypes.CDLL(None).fflush(None)  # what C code has written, such as the log of ROS
    os._exit(code)
