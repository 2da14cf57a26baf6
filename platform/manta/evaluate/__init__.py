"""What a model can do, and how much of it a compressed one has kept."""
