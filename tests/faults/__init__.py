"""Faults put into builds and ingests on purpose: what `tests/test_faults.py` tries a little of, and `make faults` all of."""
