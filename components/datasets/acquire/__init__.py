"""Raw data from a folder, a web address, S3 or the renderer into data/."""

from components.datasets.acquire.main import Acquired, acquire

__all__ = ["Acquired", "acquire"]
