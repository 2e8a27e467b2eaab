"""A data set in numbers, and what changed since another version of it."""
