"""Hours of use: one job of its own, `make soak`."""
