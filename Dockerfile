# The server in a container, see docs/use/server.md:
#   docker build --tag posedet .
#   docker run --publish 127.0.0.1:8000:8000 --env POSEDET_TOKEN --read-only --cap-drop ALL posedet
FROM python:3.13-slim AS build
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --constraint constraints.txt ".[serve]"

FROM python:3.13-slim
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
# Without a token it refuses to start: everybody who reaches the container could use it.
ENTRYPOINT ["posedet", "serve", "--host", "0.0.0.0"]
