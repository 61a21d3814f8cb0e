"""What the maps cost: `tools/benchmark_cost.py`, `tools/benchmark_growth.py`."""
