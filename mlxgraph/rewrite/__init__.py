"""Graph -> Graph: the engine, the passes, composition, retargeting.  No mlx in this room."""
