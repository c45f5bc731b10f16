"""What `InterpretableModel` hands out."""
