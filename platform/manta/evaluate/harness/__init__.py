"""Tasks in the format of EleutherAI's lm-evaluation-harness, run by it on local data with Manta's own engines."""
