"""Reports: results → table, Markdown, CSV. This package does not measure or judge."""
