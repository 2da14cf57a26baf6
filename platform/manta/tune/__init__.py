"""Search: which settings of a fine-tuning run are best, found by trying."""
