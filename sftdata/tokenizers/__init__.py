"""Tokenizers: load or learn one, save it with its chat template, and encode whole batches with proven token borders."""
