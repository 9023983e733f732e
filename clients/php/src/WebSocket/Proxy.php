<?php

declare(strict_types=1);

namespace Realizehit\WebSocket;

/**
 * An HTTP proxy that is asked to connect to the server (`CONNECT`).
 *
 * @internal
 */
final class Proxy
{
    private function __construct(
        public readonly string $host,
        public readonly int $port,
        private readonly string $credentials,
    ) {
    }

    /**
     * Read the URL of a proxy, `http://[user:password@]host[:port]`.
     *
     * @throws \ValueError it is not the URL of an HTTP proxy.
     */
    public static function read(string $url): self
    {
        $parts = parse_url(str_contains($url, '://') ? $url : "http://$url");
        if (!is_array($parts) || strtolower($parts['scheme'] ?? '') !== 'http' || ($parts['host'] ?? '') === '') {
            throw new \ValueError('the proxy of a WebSocket is an HTTP proxy, http://host:port');
        }
        $user = rawurldecode($parts['user'] ?? '');
        $password = rawurldecode($parts['pass'] ?? '');
        $credentials = $user === '' ? '' : base64_encode("$user:$password");
        return new self(trim($parts['host'], '[]'), $parts['port'] ?? 80, $credentials);
    }

    /** Return the proxy that the environment names for an address: `http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`. */
    public static function fromEnvironment(Address $address): ?self
    {
        // HTTP_PROXY in capitals can be set by a request where PHP runs as CGI: curl ignores it for that reason, too.
        $names = $address->isSecure ? ['https_proxy', 'HTTPS_PROXY'] : ['http_proxy'];
        foreach ([...$names, 'all_proxy', 'ALL_PROXY'] as $name) {
            $url = getenv($name);
            if ($url !== false && $url !== '') {
                return self::isExcepted($address) ? null : self::read($url);
            }
        }
        return null;
    }

    /** Return the request that asks the proxy for a connection. */
    public function request(Address $address): string
    {
        $target = (str_contains($address->host, ':') ? "[$address->host]" : $address->host) . ":$address->port";
        $authorization = $this->credentials === '' ? '' : "Proxy-Authorization: Basic $this->credentials\r\n";
        return "CONNECT $target HTTP/1.1\r\nHost: $target\r\n$authorization\r\n";
    }

    private static function isExcepted(Address $address): bool
    {
        $host = strtolower($address->host);
        foreach (explode(',', strtolower((string) (getenv('no_proxy') ?: getenv('NO_PROXY')))) as $exception) {
            $exception = ltrim(trim($exception), '.');
            if ($exception === '*' || ($exception !== '' && ($host === $exception || str_ends_with($host, ".$exception")))) {
                return true;
            }
        }
        return false;
    }
}
