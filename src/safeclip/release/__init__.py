"""Candidates, reviews, signed promotion, rollback: the registry."""
