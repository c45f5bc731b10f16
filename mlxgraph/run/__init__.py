"""Graph -> arrays: census, plan, operations, the patched forward, compiling and caching."""
