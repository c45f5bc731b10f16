"""What an intervention is: sites, nodes, graphs, and their text.  No mlx in this room."""
