"""A user's own images and masks, from a folder."""
