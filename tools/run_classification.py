"""Train a classifier: python tools/run_classification.py EXPERIMENT [--setting value ...]."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported: no traceback

from classification.cli import main

if __name__ == "__main__":
    main()
