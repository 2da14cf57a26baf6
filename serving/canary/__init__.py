"""A new version of a model on a share of the requests: who gets it, what is counted, and what follows from it."""
