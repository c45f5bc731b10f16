"""Generating under edits."""
