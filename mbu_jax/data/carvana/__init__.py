"""Photographs of cars (Carvana image masking challenge)."""
