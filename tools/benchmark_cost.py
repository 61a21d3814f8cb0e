"""Time a training step of each method: python tools/benchmark_cost.py [--models NAME ...]."""

from costing.cli import main

if __name__ == "__main__":
    main()
