"""Figures of the experiments on learning with a predictor and a stop-gradient."""
