"""What pruning is made of: where a model's channels lie, which blocks and channels matter least, and how they go."""
