"""Encoders of images: training, and arms against arms."""
