"""Time policies and cuts beside other libraries': python tools/benchmark_peers.py [--json FILE]."""

from costing.peers import main

if __name__ == "__main__":
    main()
