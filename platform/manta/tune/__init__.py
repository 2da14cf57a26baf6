"""Search: which settings of a run are best, found by trying."""
