"""Pictures, with matplotlib (optional)."""
