"""Robustness: the task's examples again with their texts changed, and words replaced until a label changes."""
