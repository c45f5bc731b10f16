"""Methods of interpretability, written on the public interface of a model and its traces.

In: an InterpretableModel and texts.  Out: plain results, with pictures on request.
Never: reaches into a recording or a graph; what a user of the library could not write is not here.
"""
