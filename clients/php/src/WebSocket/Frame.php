<?php

declare(strict_types=1);

namespace Realizehit\WebSocket;

/**
 * What came over a WebSocket and is not a text message: a control frame, or a binary message.
 *
 * @internal
 */
final class Frame
{
    public const CONTINUATION = 0x0;
    public const TEXT = 0x1;
    public const BINARY = 0x2;
    public const CLOSE = 0x8;
    public const PING = 0x9;
    public const PONG = 0xA;

    public function __construct(public readonly int $opcode, public readonly string $payload)
    {
    }

    /** Return the bytes of a frame from a client: final and masked. */
    public static function encode(int $opcode, string $payload): string
    {
        $size = strlen($payload);
        $mask = random_bytes(4);
        $head = chr(0x80 | $opcode) . match (true) {
            $size < 126 => chr(0x80 | $size),
            $size < 65536 => chr(0x80 | 126) . pack('n', $size),
            default => chr(0x80 | 127) . pack('J', $size),
        };
        return $head . $mask . ($payload ^ str_pad('', $size, $mask));
    }

    /** Return the payload of a close frame. */
    public static function closePayload(int $code, string $reason): string
    {
        return pack('n', $code) . $reason;
    }
}
