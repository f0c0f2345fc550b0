"""Formatters: functions from a record to an example, naming where in the record each text stands."""
