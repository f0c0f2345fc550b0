"""Ingestors: one function a format, from an input file to records and bad records."""
