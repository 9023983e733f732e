<?php

declare(strict_types=1);

namespace Realizehit\WebSocket;

use Realizehit\Exception\RealizehitException;
use Realizehit\Exception\UnavailableException;

/**
 * The opening handshake of RFC 6455, section 4: the request, and the check of the response.
 *
 * @internal
 */
final class Handshake
{
    /** Bytes of the head of a response, and of the body of a refusal, that are read at most. */
    public const MAX_RESPONSE = 16384;

    private const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

    public readonly string $request;
    private readonly string $key;

    /**
     * @param array<string, string> $headers further headers of the request.
     */
    public function __construct(Address $address, array $headers)
    {
        $this->key = base64_encode(random_bytes(16));
        $lines = [
            "GET $address->target HTTP/1.1",
            "Host: $address->authority",
            'Upgrade: websocket',
            'Connection: Upgrade',
            "Sec-WebSocket-Key: $this->key",
            'Sec-WebSocket-Version: 13',
        ];
        foreach ($headers as $name => $value) {
            if (!preg_match('/^[!#$%&\'*+\-.^_`|~0-9A-Za-z]+$/D', (string) $name) || preg_match('/[\r\n\0]/', $value)) {
                throw new \ValueError("the header $name is malformed");
            }
            $lines[] = "$name: $value";
        }
        $this->request = implode("\r\n", $lines) . "\r\n\r\n";
    }

    /**
     * Check a response that has come whole, or whose connection has ended.
     *
     * @param string $bytes what has come.
     * @param bool $isEnd whether nothing more comes.
     * @return string|null the bytes after the response; null while it is incomplete.
     * @throws RealizehitException the server does not open a WebSocket.
     */
    public function check(string $bytes, bool $isEnd): ?string
    {
        $end = strpos($bytes, "\r\n\r\n");
        if ($end === false) {
            if (strlen($bytes) > self::MAX_RESPONSE) {
                throw new UnavailableException('the response to the handshake is too long', 'unavailable');
            }
            if ($isEnd) {
                throw new UnavailableException('the connection ended in the handshake', 'unavailable');
            }
            return null;
        }
        $response = new ResponseHead(substr($bytes, 0, $end));
        $rest = substr($bytes, $end + 4);
        if ($response->status === null) {
            throw new UnavailableException('the response to the handshake is not HTTP', 'unavailable');
        }
        if ($response->status !== 101) {
            $length = min((int) ($response->headers['content-length'] ?? self::MAX_RESPONSE), self::MAX_RESPONSE);
            return strlen($rest) < $length && !$isEnd ? null : throw $this->refusal($response, $rest);
        }
        $accept = base64_encode(sha1($this->key . self::GUID, true));
        $problem = match (true) {
            strtolower($response->headers['upgrade'] ?? '') !== 'websocket' => 'has no Upgrade: websocket',
            !in_array('upgrade', array_map('trim', explode(',', strtolower($response->headers['connection'] ?? ''))), true)
                => 'has no Connection: Upgrade',
            ($response->headers['sec-websocket-accept'] ?? '') !== $accept => 'has a wrong Sec-WebSocket-Accept',
            isset($response->headers['sec-websocket-extensions']) => 'has an extension that was not asked for',
            isset($response->headers['sec-websocket-protocol']) => 'has a subprotocol that was not asked for',
            default => null,
        };
        if ($problem !== null) {
            throw new UnavailableException("the response to the handshake $problem", 'unavailable');
        }
        return $rest;
    }

    private function refusal(ResponseHead $response, string $body): RealizehitException
    {
        $problem = json_decode($body, true);
        $code = is_array($problem) && is_string($problem['code'] ?? null) ? $problem['code'] : '';
        $detail = is_array($problem) && is_string($problem['detail'] ?? null)
            ? $problem['detail']
            : "the server answered the handshake with $response->status";
        $error = RealizehitException::fromServer($detail, $code, $response->status);
        return $error;
    }
}
