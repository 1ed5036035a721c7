"""Image encoders: training, and comparison of arms."""
