"""Training runs that are stopped on purpose: what `tests/test_train_resume.py` tries a little of, and `make resume` all of."""
