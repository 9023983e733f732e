<?php

declare(strict_types=1);

namespace Realizehit\Http;

/**
 * A response.
 */
final class Response
{
    /**
     * @param string|null $retryAfter the header `Retry-After`; null if there was none.
     */
    public function __construct(
        public readonly int $status,
        public readonly ?string $retryAfter,
        public readonly string $body,
    ) {
    }
}
