"""How good answers are: measures of texts, spans and entities, as pure functions."""
