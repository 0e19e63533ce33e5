"""Backbones: one file per family, each with the table of its members by name. A member's name starts with its family's.

The `_tiny` ones and resnet18 are ours: two CPU cores train them.
"""
