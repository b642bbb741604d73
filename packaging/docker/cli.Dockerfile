# The command line, on CPUs or on NVIDIA GPUs. In the root of the repository:
#   docker build -f packaging/docker/cli.Dockerfile -t sbim-deploy .
#   docker build -f packaging/docker/cli.Dockerfile -t sbim-deploy:cuda --build-arg DEVICE=cuda .
# It works in /data, as whoever you are, and without a network:
#   docker run --rm --network none --user "$(id -u):$(id -g)" -v "$PWD:/data" sbim-deploy recon kspace.h5 -o out.h5
#   docker run --rm --network none --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/data" sbim-deploy:cuda bench demo
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
        "/src[${EXTRA},nifti,dicom,twix,mrd2,noncartesian,cluster]" \
    && rm -r /src
ENV PATH=/opt/sbim-deploy/bin:$PATH HOME=/tmp
USER 65532:65532
WORKDIR /data
ENTRYPOINT ["sbim-deploy"]
CMD ["--help"]
