"""Methods of interpretability, written on the public face of a model and its traces alone.

In: a model, as the protocols in `traceable` describe it, and texts.  Out: plain results, with
pictures on request.
Never: imports the model or what lies below it; what a user of the library could not write is not
here.
"""
