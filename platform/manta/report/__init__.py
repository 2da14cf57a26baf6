"""Reading what runs left behind: status, lineage, comparison, and the page of a run."""
