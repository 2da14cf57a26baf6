"""Tokenizers: how each type is trained, kept as a Hugging Face directory, extended, measured and run fast."""
