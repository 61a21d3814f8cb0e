"""Is a model fit for saliency maps, and which are worth their price: `tools/doctor.py`."""
