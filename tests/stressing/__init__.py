"""Fault injection: kills at random moments, nonsense settings, damaged files."""
