"""Compare kinds of maps over the epochs of a run: tools/benchmark_agreement.py EXPERIMENT."""

from costing.agreement import main

if __name__ == "__main__":
    main()
