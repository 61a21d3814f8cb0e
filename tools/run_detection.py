"""Fine-tune a detector: python tools/run_detection.py EXPERIMENT [--setting value ...]."""

from detection.cli import main

if __name__ == "__main__":
    main()
