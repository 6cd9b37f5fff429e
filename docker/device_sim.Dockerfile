# syntax=docker/dockerfile:1
# Simulated devices that join a coordinator. From the root of the repository:
#   docker build --file docker/device_sim.Dockerfile --tag shoal/device-sim .
# No TensorFlow, no FastAPI, no SQLAlchemy: what a device needs is numpy, HTTP and LiteRT.

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/shoal
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY coordinator coordinator
COPY device_sim device_sim
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/shoal/bin/python -m pip install --constraint constraints.txt \
    '.[device,he,swarm]'

FROM python:3.11-slim
RUN groupadd --gid 10001 shoal \
    && useradd --uid 10001 --gid shoal --no-create-home --home-dir /runs shoal \
    && install --directory --owner=shoal --group=shoal --mode=0700 /runs
COPY --from=build /opt/shoal /opt/shoal
COPY plans /opt/shoal/plans
ENV PATH=/opt/shoal/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /runs
# It listens to nothing and ends by itself: its exit status says how it went.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "device_sim", "--plan", "/opt/shoal/plans/default.toml"]
CMD ["--coordinator", "http://coordinator:8000"]
