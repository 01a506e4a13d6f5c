"""Fetches models into the models folder, adds those that are here already, and takes them out of it."""

from sdapi.catalog.inventory import MODEL_KINDS, ModelKind

from .adding import Added, LocalModel, add_model
from .download import Download, DownloadFailed, DownloadStatus, NewDownload
from .removal import remove_hand_placed, remove_model
from .service import DownloadSources, DownloadTimes, ModelDownloads, OnEnd

__all__ = [
    "MODEL_KINDS",
    "Added",
    "Download",
    "DownloadFailed",
    "DownloadSources",
    "DownloadStatus",
    "DownloadTimes",
    "LocalModel",
    "ModelDownloads",
    "ModelKind",
    "NewDownload",
    "OnEnd",
    "add_model",
    "remove_hand_placed",
    "remove_model",
]
