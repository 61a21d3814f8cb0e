"""Finished runs beside the paper's tables and figures: `tools/report.py`."""
