"""From files to shards: documents, cleaning, deduplication, tokenizer, packing, and the ordered stream."""
