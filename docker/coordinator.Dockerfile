# syntax=docker/dockerfile:1
# The coordinator, API and worker. From the root of the repository:
#   docker build --file docker/coordinator.Dockerfile --tag shoal/coordinator .
# It computes on the CPU: the TensorFlow it installs brings no CUDA libraries.

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/shoal
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY coordinator coordinator
COPY tflite_models tflite_models
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/shoal/bin/python -m pip install --constraint constraints.txt \
    '.[coordinator,postgres,he,models]'

FROM python:3.11-slim
RUN groupadd --gid 10001 shoal \
    && useradd --uid 10001 --gid shoal --no-create-home --home-dir /data shoal \
    && install --directory --owner=shoal --group=shoal --mode=0700 /data
COPY --from=build /opt/shoal /opt/shoal
COPY plans /opt/shoal/plans
ENV PATH=/opt/shoal/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SHOAL_DATA_DIR=/data \
    SHOAL_HOST=0.0.0.0 \
    SHOAL_PORT=8000
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['SHOAL_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "coordinator"]
CMD ["serve"]
