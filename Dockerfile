# syntax=docker/dockerfile:1
#
# Two images from one file:
#   docker build --target serving  -t kubehabit:serving  .     small, without torch, runs as user 10001
#   docker build --target training -t kubehabit:training .     everything that `kubehabit train` needs
#
# Both write to /var/lib/kubehabit: mount a volume there that user 10001 owns. Another base needs Python 3.11 with venv, as `python`:
#   docker build --build-arg BASE=registry.example/python:3.11 ...

ARG BASE=python:3.11-slim
FROM ${BASE} AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    KUBEHABIT_HOME=/var/lib/kubehabit \
    PATH=/opt/kubehabit/bin:$PATH
RUN groupadd --gid 10001 kubehabit \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/kubehabit --shell /usr/sbin/nologin kubehabit \
 && install -d -o 10001 -g 10001 /var/lib/kubehabit

# Dependencies are large and change rarely, so they are layers below the code.
FROM base AS build-serving
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/kubehabit
WORKDIR /src
COPY requirements/ requirements/
# Only files whose hashes are locked. With the drivers that a setting can ask for: they cannot be added to a running image.
RUN pip install --no-cache-dir --no-compile --require-hashes --no-deps -r requirements/serving.txt
COPY pyproject.toml README.md LICENSE ./
COPY kubehabit/ kubehabit/
COPY configs/ configs/
COPY data/ data/
COPY detection/ detection/
COPY training/ training/
COPY serving/ serving/
RUN rm -rf build && pip install --no-cache-dir --no-deps --no-build-isolation .

FROM build-serving AS build-training
# To choose a build of torch: --build-arg TORCH_PIP_ARGS="--index-url ..."
ARG TORCH_PIP_ARGS=""
RUN pip install --no-cache-dir --no-compile --require-hashes --no-deps -r requirements/training.txt \
 && python requirements/install_torch.py --no-cache-dir $TORCH_PIP_ARGS

FROM base AS training
COPY --from=build-training /opt/kubehabit /opt/kubehabit
USER 10001:10001
WORKDIR /var/lib/kubehabit
VOLUME /var/lib/kubehabit
ENTRYPOINT ["kubehabit"]
CMD ["train", "--help"]

# Last, so that a plain `docker build .` builds the small image.
FROM base AS serving
COPY --from=build-serving /opt/kubehabit /opt/kubehabit
USER 10001:10001
WORKDIR /var/lib/kubehabit
VOLUME /var/lib/kubehabit
# The default is loopback, which nothing outside the container can reach. On other addresses kubehabit refuses to start without
# a token: docker run -e KUBEHABIT_TOKEN=...
ENV KUBEHABIT_HOST=0.0.0.0 \
    KUBEHABIT_PORT=8646
EXPOSE 8646
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['KUBEHABIT_PORT'] + '/healthz', timeout=2)"]
ENTRYPOINT ["kubehabit"]
CMD ["serve"]
