"""Duplicates: which records, or turns, are copies or near-copies of others. Signatures and digests in, decisions out.

Signatures are made where the text is (the phase `sign`); decisions are made once over all rows (the phase `resolve`).
"""
