"""Webhooks: written where the reason for them is, sent from there until they arrive or an hour has passed."""

from .client import open_webhook_client
from .outbox import enqueue
from .sender import DeliveryTimes, WebhookSender
from .signature import secret_text, sign
from .urls import checked_url

__all__ = ["DeliveryTimes", "WebhookSender", "checked_url", "enqueue", "open_webhook_client", "secret_text", "sign"]
