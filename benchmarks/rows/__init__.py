"""The rows of the table, grouped by their set-up."""
