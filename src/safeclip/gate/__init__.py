"""Rules over intervals, recomputed from per-query outcomes -> a verdict."""
