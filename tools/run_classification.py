"""Train a classifier: python tools/run_classification.py EXPERIMENT [--setting value ...]."""

from classification.cli import main

if __name__ == "__main__":
    main()
