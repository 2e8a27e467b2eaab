"""Audits of what a retrained encoder reacts to: what a picture shows, or how it was made."""
