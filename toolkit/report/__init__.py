"""Reports: results → table, Markdown, CSV. Nothing here measures or judges."""
