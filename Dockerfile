# One image for CPU and CUDA: which one it becomes is decided by the torch wheel that is installed.
#
#   docker build --build-arg TORCH_INDEX_URL=<index of torch's CPU wheels> -t sdapi .
#   docker build -t sdapi .          the default index has the CUDA wheels for Linux on x86-64
#
# The container listens on all its addresses, so it wants a key: set SDAPI_API_KEY, or make one in the data volume first with
#   docker run --rm -v sdapi-data:/data sdapi keys create

FROM python:3.12-slim AS build
# Where torch comes from; empty: from where everything else comes.
ARG TORCH_INDEX_URL=""
# A package mirror of your own, if you have one.
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY requirements.lock ./
# Torch alone from its own index; the second line then adds whatever that build of it depends on.
RUN if [ -n "$TORCH_INDEX_URL" ]; then \
        PIP_INDEX_URL="$TORCH_INDEX_URL" pip install --no-deps "$(grep '^torch==' requirements.lock)"; \
    fi \
    && pip install --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY models/demo models/demo
COPY tests/golden tests/golden
COPY sdapi sdapi
RUN pip install --no-deps .

FROM python:3.12-slim
# Fixed numbers, so that folders of the host can be given to this user: chown 10001:10001.
RUN groupadd --gid 10001 sdapi \
    && useradd --uid 10001 --gid 10001 --create-home sdapi \
    && mkdir -p /data /models/checkpoints \
    && chown 10001:10001 /data
COPY --from=build /opt/venv /opt/venv
COPY docker/healthcheck.py /opt/healthcheck.py
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    SDAPI_DATA_DIR=/data \
    SDAPI_MODELS_DIR=/models
USER 10001:10001
WORKDIR /home/sdapi
VOLUME ["/data", "/models"]
EXPOSE 8000
# Running pictures get SDAPI_STOP_GRACE_S to finish: give `docker stop` more than twice that (-t 60).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["python", "/opt/healthcheck.py"]
# No shell in between: sdapi itself gets the signal.
ENTRYPOINT ["sdapi"]
CMD ["serve"]
