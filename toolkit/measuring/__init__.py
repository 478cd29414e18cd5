"""From rounds in workers to speeds, ratios and ranks with their intervals."""
