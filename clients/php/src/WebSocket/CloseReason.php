<?php

declare(strict_types=1);

namespace Realizehit\WebSocket;

/**
 * What a close frame says.
 *
 * @internal
 */
final class CloseReason
{
    private function __construct(
        /** The code; null if the frame has none. */
        public readonly ?int $code,
        public readonly string $reason,
        /** The close code of the error in the frame; null if it is valid. */
        public readonly ?int $failureCode,
    ) {
    }

    /** Read the payload of a close frame. */
    public static function read(string $payload): self
    {
        if ($payload === '') {
            return new self(null, '', null);
        }
        if (strlen($payload) === 1) {
            return new self(null, '', 1002);
        }
        $code = unpack('n', $payload)[1];
        $reason = substr($payload, 2);
        if (!preg_match('//u', $reason)) {
            return new self($code, '', 1007);
        }
        return new self($code, $reason, self::isValid($code) ? null : 1002);
    }

    /** Whether a code may stand in a close frame. 1004 to 1006 and 1015 are reserved. */
    private static function isValid(int $code): bool
    {
        return ($code >= 1000 && $code <= 1014 && ($code < 1004 || $code > 1006)) || ($code >= 3000 && $code <= 4999);
    }
}
