"""Persons' boxes in whole images: a shipped detector, overlapping tiles, and boxes merged over their seams."""
