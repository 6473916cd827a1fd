# The command dip-jax in a container.
#   docker build -t dip-jax .                          # CPU
#   docker build -t dip-jax --build-arg EXTRA=cuda .   # NVIDIA GPU; needs the NVIDIA container toolkit
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" dip-jax photo.png
#   docker run --rm --gpus all -v "$PWD:/data" dip-jax photos/ --output=restored
FROM python:3.13-slim-bookworm

# Extras of the package, separated by commas.
ARG EXTRA=jpeg

WORKDIR /source
COPY pyproject.toml requirements.txt LICENSE ./
COPY docs/package.md docs/
COPY dip_jax dip_jax
# The versions are those of the package.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[$EXTRA]"

WORKDIR /data
ENTRYPOINT ["dip-jax"]
