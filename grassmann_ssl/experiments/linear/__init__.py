"""Linear models: collapse, stepwise learning, and free against constrained training."""
