"""Labellers: independent safe/unsafe labels with scores, for captions and for images."""
