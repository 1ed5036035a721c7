"""Pages of the wing encoders."""
