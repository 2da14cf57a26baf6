"""What models read: examples as rows of tokens, by conversation, window, marker or two sides, and how rows are packed."""
