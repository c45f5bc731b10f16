"""Graph -> Graph: the driver, the rules, the pipeline of rewrites.  No mlx in this room."""
