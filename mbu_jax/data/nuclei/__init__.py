"""Nuclei in microscope images (2018 Data Science Bowl, stage 1)."""
