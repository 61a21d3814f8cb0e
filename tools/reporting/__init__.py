"""The cross-task report, and the queue that fills it: `tools/report.py`, `tools/run_table.py`."""
