"""Fill data/ with raw data from a folder, a web address, S3 or the renderer."""

from components.datasets.acquire.main import Acquired, acquire

__all__ = ["Acquired", "acquire"]
