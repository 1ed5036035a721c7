"""Pages of the wing linear."""
