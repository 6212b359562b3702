"""`python -m stablediff …`"""

import signal
import sys

from stablediff.cli import main

if __name__ == "__main__":
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on nothing is lost, and nothing is to be said
    sys.exit(code)
