"""The generate stage: a teacher writes what a student is to learn, as text (Kim and Rush 2016, arXiv:1606.07947)."""
