"""What a person looks at: one row, one record's life, the report, the check of a folder."""
