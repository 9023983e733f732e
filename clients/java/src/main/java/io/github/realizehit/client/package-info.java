/**
 * Clients of a realizehit server: {@link io.github.realizehit.client.APIClient} publishes over HTTP, and {@link
 * io.github.realizehit.client.WSClient} subscribes over a WebSocket.
 */
package io.github.realizehit.client;
