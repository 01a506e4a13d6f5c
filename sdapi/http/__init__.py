"""FastAPI and nothing but: routes, dependencies, error handlers."""
