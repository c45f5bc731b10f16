"""Lens, patching, activations: written on the public API alone."""
