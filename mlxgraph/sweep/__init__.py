"""Many variants of an edit on one input, by the work of few forwards."""
