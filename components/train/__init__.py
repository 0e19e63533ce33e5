"""Training: one loop for CPU and GPU. Read `loop.py` first, then `recipe.py` and `checkpoint.py`."""
