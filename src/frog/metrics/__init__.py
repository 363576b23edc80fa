"""Columns of the report, verdicts, and the one streaming pass that fills them."""
