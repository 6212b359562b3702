"""`python -m stablediff …`"""

import sys

from stablediff.cli import main

if __name__ == "__main__":
    sys.exit(main())
