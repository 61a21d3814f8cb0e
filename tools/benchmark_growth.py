"""Time training steps of growing size: python tools/benchmark_growth.py [--plot FILE]."""

from classification.benchmark.growth import main

if __name__ == "__main__":
    main()
