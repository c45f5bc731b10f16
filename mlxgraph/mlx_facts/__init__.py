"""What is believed of MLX beyond its documentation: one function a belief.

Each docstring states its belief in a sentence, and a test in `tests/mlx_facts/` states it alone.
All of them hold on every version that `pyproject.toml` allows: `make facts` asks the oldest and
the newest.  A docstring names a version only where versions differ.

In: nothing but mlx (mlx-lm where a function needs it).  Never: anything of the rest of the house.
"""
