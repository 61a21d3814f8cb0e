"""Does keeping help? Paired runs by a plan that is fixed before the first: `tools/run_trial.py`."""
