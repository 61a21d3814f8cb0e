"""Train with few labels: python tools/run_semisup_uda.py EXPERIMENT [--setting value ...]."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported: no traceback

from semisup_uda.cli import main

if __name__ == "__main__":
    main()
