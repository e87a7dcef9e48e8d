# One image for every worker: the wheel of this repository and the exact versions of constraints.txt, for a user
# without privileges.
#
#   docker build -t factstream .
#
# PyPI's torch for Linux runs on CPU and GPU alike, but carries CUDA (several GB). For a small image of the CPU build,
# or one of another CUDA version, name a wheel index of PyTorch's install page: --build-arg TORCH_INDEX=URL

FROM python:3.13-slim AS build
ARG TORCH_INDEX=""
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip wheel --no-deps --wheel-dir /dist . \
    && python -m venv /opt/factstream \
    && /opt/factstream/bin/pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt "$(echo /dist/*.whl)[fast,object-store,otlp,sources]"

FROM python:3.13-slim
# The folders exist and belong to the user, so that the volumes mounted over them do too.
RUN useradd --uid 10001 --create-home factstream \
    && install --directory --owner=factstream --group=factstream /var/lib/factstream /var/cache/factstream
COPY --from=build /opt/factstream /opt/factstream
ENV PATH="/opt/factstream/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    FACTSTREAM_DATA=/var/lib/factstream \
    FACTSTREAM_CACHE=/var/cache/factstream \
    NUMBA_CACHE_DIR=/var/cache/factstream/compiled \
    HF_HOME=/var/cache/factstream/huggingface
USER factstream
WORKDIR /home/factstream
ENTRYPOINT ["factstream"]
