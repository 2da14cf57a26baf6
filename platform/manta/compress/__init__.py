"""Smaller, faster models: quantised with calibration rows from the training data."""
