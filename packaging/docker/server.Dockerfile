# The server behind a scanner, on CPUs or on NVIDIA GPUs. In the root of the repository:
#   docker build -f packaging/docker/server.Dockerfile -t sbim-deploy-server .
#   docker build -f packaging/docker/server.Dockerfile -t sbim-deploy-server:cuda --build-arg DEVICE=cuda .
# There is no authentication: publish the port on an address that the scanner alone reaches (docs/serving.md).
#   docker run --rm -p 127.0.0.1:9002:9002 -p 127.0.0.1:9003:9003 sbim-deploy-server
# Another model: -v "$PWD/model:/model:ro", and as arguments: --model /model
# For Siemens' OpenRecon, examples/serving/Dockerfile.
ARG DEVICE=cpu

FROM python:3.13-slim-bookworm AS cpu
ENV EXTRA=openvino

# The driver comes from the host (NVIDIA's container toolkit), CUDA's libraries and cuDNN from the extra gpu.
FROM nvidia/cuda:12.8.1-base-ubuntu24.04 AS cuda
ENV EXTRA=gpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# hadolint ignore=DL3006
FROM ${DEVICE}
COPY . /src
RUN python3 -m venv /opt/sbim-deploy \
    && /opt/sbim-deploy/bin/python -m pip install --no-cache-dir --constraint /src/constraints.txt \
        "/src[${EXTRA},serve]" \
    && rm -r /src
ENV PATH=/opt/sbim-deploy/bin:$PATH HOME=/tmp
USER 65532:65532
EXPOSE 9002 9003
# 503, or no answer, says that the process must be started anew.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9003/health', timeout=4)"]
# Inside the container every address is the container's own: what is published decides who reaches it.
ENTRYPOINT ["sbim-deploy", "serve", "--host", "0.0.0.0", "--port", "9002", "--metrics-port", "9003", "--log-json"]
