package io.github.realizehit.client;

/**
 * The connection was lost, or could not be made. {@link #status()} is the close code of the WebSocket or the HTTP
 * status of the handshake.
 */
public final class DisconnectedException extends RealizehitException {
    private static final long serialVersionUID = 1L;

    DisconnectedException(Details details) {
        super(details);
    }
}
