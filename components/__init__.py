"""What a stage does. Nothing here imports Prefect or DVC; only `registry` imports MLflow."""
