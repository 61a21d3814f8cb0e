"""Time training steps of growing size: python tools/benchmark_growth.py [--plot FILE]."""

from costing.growth import main

if __name__ == "__main__":
    main()
