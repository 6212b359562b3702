"""Ctrl+C in the second that `python -m stablediff` takes to be imported: it ends, without a traceback."""

import signal
import sys

# Python imports the package before `__main__`, and until it has found that one this is all that the arguments hold.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def listen() -> None:
    """From here on Ctrl+C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
