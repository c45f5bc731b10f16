"""Several processes: real ones, launched as a user launches them."""
