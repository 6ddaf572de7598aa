"""Scores on the scan's own grid, and the pictures that show them."""
