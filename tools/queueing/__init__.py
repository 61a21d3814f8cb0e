"""The runs that a table needs, one after the other or on a cluster: `tools/run_table.py`."""
