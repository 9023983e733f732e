<?php

declare(strict_types=1);

namespace Realizehit\WebSocket;

/**
 * Finds the addresses of a host. It blocks while the system's resolver works.
 *
 * @internal
 */
final class Resolver
{
    /**
     * Return the addresses to try, in order; an IPv6 address in brackets.
     *
     * @return list<string>
     */
    public static function addresses(string $host): array
    {
        if (filter_var($host, FILTER_VALIDATE_IP) !== false) {
            return [self::bracketed($host)];
        }
        if (!function_exists('socket_addrinfo_lookup')) {
            return gethostbynamel($host) ?: [];
        }
        $found = @socket_addrinfo_lookup($host, null, ['ai_socktype' => SOCK_STREAM]) ?: [];
        $addresses = [];
        foreach ($found as $info) {
            $address = socket_addrinfo_explain($info)['ai_addr'];
            $addresses[] = self::bracketed($address['sin6_addr'] ?? $address['sin_addr']);
        }
        return array_values(array_unique($addresses));
    }

    private static function bracketed(string $address): string
    {
        return str_contains($address, ':') ? "[$address]" : $address;
    }
}
