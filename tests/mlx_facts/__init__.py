"""What is believed of MLX, each belief stated alone.

A new version of MLX: `make facts`.  What fails here is what to look at; what passes still holds.
"""
