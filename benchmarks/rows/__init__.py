"""The rows of the table, by what has to be set up to measure them."""
