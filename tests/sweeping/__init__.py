"""The maps on many networks: what holds, what is refused, and why."""
