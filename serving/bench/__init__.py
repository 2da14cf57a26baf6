"""`manta bench-serve`: load on any OpenAI-compatible endpoint, and what its clients would have seen."""
