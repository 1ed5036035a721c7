"""Pages of the wing networks."""
