"""A report becomes a table, a file, a page."""
