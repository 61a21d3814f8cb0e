"""A training image exactly as the network saw it: `tools/replay.py`."""
