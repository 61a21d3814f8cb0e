"""Fine-tune a detector: python tools/run_detection.py EXPERIMENT [--setting value ...]."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported: no traceback

from detection.cli import main

if __name__ == "__main__":
    main()
