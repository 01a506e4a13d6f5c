"""Where pictures are kept: a folder of this machine, or a bucket of S3 or of a service like it."""

from .base import Storage, StorageError, is_name, media_type
from .client_buckets import ClientBuckets
from .local import LocalStorage
from .s3 import BucketError, BucketProblem, S3Storage
from .s3_target import S3Target, configured_target, target_of
from .switching import SwitchingStorage
from .targets import StorageTargets

__all__ = [
    "BucketError",
    "BucketProblem",
    "ClientBuckets",
    "LocalStorage",
    "S3Storage",
    "S3Target",
    "Storage",
    "StorageError",
    "StorageTargets",
    "SwitchingStorage",
    "configured_target",
    "is_name",
    "media_type",
    "target_of",
]
