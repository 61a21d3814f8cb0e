"""Cost of the maps: `tools/benchmark_cost.py`, `tools/benchmark_growth.py`."""
