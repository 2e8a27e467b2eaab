"""Data quality: the contract as expectations, quarantine with reasons, a page for people."""
