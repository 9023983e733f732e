<?php

declare(strict_types=1);

namespace Realizehit;

/**
 * A message of the history.
 */
final class StoredMessage
{
    /**
     * @param mixed $payload as `json_decode` reads it, with objects as arrays.
     * @param string $position `<epoch>.<offset>`.
     * @param array<int|string, string>|null $pattern what it was published to, if the history is that of a pattern with
     *   wildcards; else null.
     */
    public function __construct(
        public readonly mixed $payload,
        public readonly string $position,
        public readonly ?array $pattern = null,
    ) {
    }

    /**
     * @internal
     * @param array<int|string, mixed> $message
     */
    public static function read(array $message): self
    {
        $at = $message['at'] ?? null;
        $pattern = $message['pattern'] ?? null;
        return new self(
            $message['payload'] ?? null,
            is_string($at) ? $at : '',
            is_array($pattern) ? array_filter($pattern, is_string(...)) : null,
        );
    }
}
