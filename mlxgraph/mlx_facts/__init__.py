"""What is believed of MLX beyond its documentation: one function a belief."""
