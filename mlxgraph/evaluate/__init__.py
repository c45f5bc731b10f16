"""What each operation of the table (`graph.ops`) is in MLX.

In: a node and the values of its inputs.  Out: its value.  Recording finds shapes by it, on
placeholders, and running computes by it, eagerly and in compiled traces: they cannot disagree.
Never: records, plans, or touches a model.
"""
