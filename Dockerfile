# The first stage has a compiler and builds the wheel; the second has Python and what the wheel needs, and no root.
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
# In a container loopback is of no use to anybody. What may reach the port is for the network around it to say.
ENV PATH="/opt/realizehit/bin:$PATH" \
    SERVER_HOST=0.0.0.0 \
    SERVER_PORT=8080
USER 10001:10001
EXPOSE 8080
# The process, not the broker: while that is away, clients stay connected, and a restart would lose them.
# It knows settings from variables and from a file that REALIZEHIT_CONFIG names, not the flags after the image's name.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["realizehit-server", "healthcheck"]
ENTRYPOINT ["realizehit-server"]
