"""Train person re-identification: python tools/run_reid.py EXPERIMENT [--setting value ...]."""

from reid.cli import main

if __name__ == "__main__":
    main()
