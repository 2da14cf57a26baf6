"""Training: Ray Train workers running DeepSpeed over the ordered stream."""
