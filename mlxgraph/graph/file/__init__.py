"""Graphs on disk: one file in safetensors layout, read by a loader that believes nothing."""
