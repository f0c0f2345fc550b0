"""Cleaners: functions from a text (or a table of texts) to a text, a drop or a mark."""
