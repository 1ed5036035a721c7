"""Fully connected networks: width, tangent kernels and how they move."""
