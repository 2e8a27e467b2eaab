"""The data folder: import captions and photos, describe a data set and what changed in it."""
