# One image for master, slave and evaluator: torch's CPU build, about 1.6 GB. Built and started by docker-compose.yml.
FROM python:3.11-slim AS build
# Index of torch builds: CPU by default; docker-compose.gpu.yml sets the CUDA index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY constraints.txt ./
RUN python3 -m venv /opt/layerwise
# Install torch first and alone, so that changes of the sources below keep this layer.
RUN /opt/layerwise/bin/pip install --no-cache-dir --retries 1 --extra-index-url "$TORCH_INDEX" --constraint constraints.txt torch
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY protos protos
COPY common common
COPY master master
COPY slave slave
COPY deploy deploy
COPY layerwise layerwise
RUN /opt/layerwise/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.11-slim
COPY --from=build /opt/layerwise /opt/layerwise
# The user owns the folders that are kept; a new volume inherits the owner.
RUN groupadd --gid 10001 layerwise && useradd --uid 10001 --gid layerwise --no-create-home layerwise \
    && mkdir /state /runs /cache /token /reader && chown layerwise:layerwise /state /runs /cache /token /reader
ENV PATH=/opt/layerwise/bin:$PATH HOME=/tmp MPLCONFIGDIR=/tmp XDG_CACHE_HOME=/cache PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER layerwise
WORKDIR /runs
ENTRYPOINT ["layerwise"]
CMD ["--help"]
