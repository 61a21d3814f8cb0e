"""Try the maps on the smallest network of each family: python tools/run_sweep.py --help."""

from sweeping.cli import main

if __name__ == "__main__":
    main()
