"""Per-query outcomes and their intervals; retrieval in all directions; exact top-k."""
