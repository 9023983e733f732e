<?php

declare(strict_types=1);

namespace Realizehit\WebSocket;

/**
 * The address of a WebSocket, taken apart.
 *
 * @internal
 */
final class Address
{
    public readonly bool $isSecure;
    /** Without the brackets of an IPv6 address. */
    public readonly string $host;
    public readonly int $port;
    /** Path and query. */
    public readonly string $target;
    /** Host and port as they stand in `Host`. */
    public readonly string $authority;

    /**
     * @throws \ValueError it is not the address of a WebSocket.
     */
    public function __construct(string $url)
    {
        $parts = parse_url($url);
        $scheme = is_array($parts) ? strtolower($parts['scheme'] ?? '') : '';
        if (!in_array($scheme, ['ws', 'wss'], true) || ($parts['host'] ?? '') === '' || preg_match('/[\s\x00-\x1f]/', $url)) {
            throw new \ValueError('the address of a WebSocket begins with ws:// or wss:// and has a host');
        }
        if (isset($parts['user']) || isset($parts['pass']) || isset($parts['fragment'])) {
            throw new \ValueError('the address of a WebSocket has neither a user nor a fragment');
        }
        $this->isSecure = $scheme === 'wss';
        $this->host = trim($parts['host'], '[]');
        $default = $this->isSecure ? 443 : 80;
        $this->port = $parts['port'] ?? $default;
        $this->target = ($parts['path'] ?? '/') . (isset($parts['query']) ? "?{$parts['query']}" : '');
        $this->authority = $parts['host'] . ($this->port === $default ? '' : ":$this->port");
    }
}
