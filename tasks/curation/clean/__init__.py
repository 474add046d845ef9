"""Reading documents: quality filters, licences, and redaction of secrets."""
