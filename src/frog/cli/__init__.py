"""Arguments to api to report; no arithmetic."""
