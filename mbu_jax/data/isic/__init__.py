"""Photographs of skin lesions (ISIC 2018, task 1)."""
