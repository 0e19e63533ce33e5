"""Raw data from a folder, a web address, S3 or the renderer into data/."""

from components.datasets.acquire.main import Acquired, acquire
from components.datasets.acquire.sources import SOURCES, Source

__all__ = ["SOURCES", "Acquired", "Source", "acquire"]
