"""What computes an answer in a replica: vLLM with its adapters, and which runner a model has."""
