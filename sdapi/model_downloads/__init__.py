"""Fetches models into the models folder, and takes them out of it."""

from .download import MODEL_KINDS, Download, DownloadFailed, DownloadStatus, ModelKind, NewDownload
from .removal import remove_model
from .service import DownloadSources, DownloadTimes, ModelDownloads, OnEnd

__all__ = [
    "MODEL_KINDS",
    "Download",
    "DownloadFailed",
    "DownloadSources",
    "DownloadStatus",
    "DownloadTimes",
    "ModelDownloads",
    "ModelKind",
    "NewDownload",
    "OnEnd",
    "remove_model",
]
