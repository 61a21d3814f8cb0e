"""Train person re-identification: python tools/run_reid.py EXPERIMENT [--setting value ...]."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported: no traceback

from reid.cli import main

if __name__ == "__main__":
    main()
