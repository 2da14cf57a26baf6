"""The vocabulary of recipes: every section that a kind may have, strict at every depth."""
