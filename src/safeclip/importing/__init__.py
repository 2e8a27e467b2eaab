"""Captions and pictures of one's own -> a data folder that the chain runs on."""
