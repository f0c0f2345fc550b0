"""Executors: each runs tasks by a lazy `map(function, tasks)` and knows no stage."""
