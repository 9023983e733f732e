# The first stage has a compiler and builds the wheel. The second has Python and the wheel's dependencies, and runs
# without root.
FROM python:3.13 AS build
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY realizehit realizehit
# realizehit/static/realizehit.js is a link to it.
COPY clients/js/lib/realizehit.min.js clients/js/lib/realizehit.min.js
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/realizehit \
    && /opt/realizehit/bin/pip install --no-cache-dir "realizehit[embedded,jwt] @ file://$(echo /wheels/*.whl)"

FROM python:3.13-slim
COPY --from=build /opt/realizehit /opt/realizehit
# Loopback of a container cannot be reached from outside. The network around the container decides who can reach the port.
ENV PATH="/opt/realizehit/bin:$PATH" \
    SERVER_HOST=0.0.0.0 \
    SERVER_PORT=8080
USER 10001:10001
EXPOSE 8080
# Checks the process and not the broker: clients stay connected during an outage of the broker, and a restart would
# disconnect them. The check reads settings from variables and the file that REALIZEHIT_CONFIG names, not from flags after
# the image's name.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["realizehit-server", "healthcheck"]
ENTRYPOINT ["realizehit-server"]
