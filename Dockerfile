# SPDX-License-Identifier: Apache-2.0
# The image of a node: non-root, for a read-only root file system, without a shell.
#   docker build -t antiphon .

ARG RUST_VERSION=1.95
ARG DEBIAN=bookworm

# --- the wheel and what it needs, into /opt/antiphon -----------------------------------------------
FROM rust:${RUST_VERSION}-slim-${DEBIAN} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY python/requirements.txt python/requirements.txt
RUN python3 -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --requirement python/requirements.txt
# What only builds stays here; everything else goes along, as pinned.
RUN grep --invert-match '^maturin==' python/requirements.txt > /tmp/runtime.txt \
    && /venv/bin/pip install --no-cache-dir --no-deps --no-compile --target /opt/antiphon/lib --requirement /tmp/runtime.txt
COPY Cargo.toml Cargo.lock pyproject.toml README.md LICENSE ./
COPY proto proto
COPY rust rust
COPY benchmarks/load benchmarks/load
COPY python python
RUN /venv/bin/maturin build --locked --profile wheel --strip --interpreter python3 --out /wheels \
    && /venv/bin/pip install --no-cache-dir --no-deps --no-compile --target /opt/antiphon/lib /wheels/*.whl \
    && rm -rf /opt/antiphon/lib/bin
COPY k8s/image/antiphon k8s/image/reload k8s/image/answers /opt/antiphon/bin/
# Nothing can be compiled later: the root file system is read-only. Files that nobody changes need
# no look at their times.
RUN chmod -R a+rX,go-w /opt/antiphon \
    && chmod 755 /opt/antiphon/bin/* \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/antiphon/lib

# --- Debian's Python and libraries, and nothing else of it -------------------------------------------
FROM debian:${DEBIAN}-slim AS tree
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*
COPY k8s/image/rootfs.py /rootfs.py
COPY --from=build /opt/antiphon /opt/antiphon
RUN ["python3", "/rootfs.py", "/opt/antiphon", "/rootfs"]

FROM scratch
COPY --from=tree /rootfs/ /
ENV PATH=/opt/antiphon/bin:/usr/bin \
    PYTHONPATH=/opt/antiphon/lib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/antiphon
EXPOSE 5222 5223 5280 5281
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/antiphon/bin/antiphon"]
CMD ["serve"]
