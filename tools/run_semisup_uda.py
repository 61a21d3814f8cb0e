"""Train with few labels: python tools/run_semisup_uda.py EXPERIMENT [--setting value ...]."""

from semisup_uda.cli import main

if __name__ == "__main__":
    main()
