"""Quantisation in plain torch: grids, rounding that looks at data, scales moved before it, and checkpoints that engines load."""
