"""What the README claims, as commands."""

# Before torch, so that what is compared waits for its threads as the server does.
import sdapi.pipelines as _pipelines  # noqa: F401
